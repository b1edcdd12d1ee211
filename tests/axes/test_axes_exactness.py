"""Statistics that count units: forbidden, made exact, or run over what is left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from axes.proving import Net, assert_same, generic_, outputs, removal, thin
from prunus.axes import Graph, trace
from prunus.errors import InputError
from prunus.plans import Plan, load, record_of, save, verify

WIDTH = 12


class Root(nn.Module):
    """RMSNorm as transformers writes it; `shift` is 1 where the weight is stored less one, as Gemma does."""

    def __init__(self, width: int = WIDTH, eps: float = 1e-2, shift: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))
        self.variance_epsilon = eps
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        scaled = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return scaled * (self.weight + self.shift) if self.shift else self.weight * scaled


class Response(nn.Module):
    """Global response normalisation over the last dimension, as ConvNeXt V2 has it."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(width))
        self.eps = 1e-2

    def forward(self, x: Tensor) -> Tensor:
        response = x.norm(p=2, dim=1, keepdim=True)
        scaled = x * (response / (response.mean(dim=-1, keepdim=True) + self.eps))
        return self.weight * scaled + self.bias + x


class Standardised(nn.Conv2d):
    """A convolution over standardised weights."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.flatten(1)
        weight = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, keepdim=True) + 1e-5).sqrt()
        return self._conv_forward(x, weight.view_as(self.weight), self.bias)


NORMS = {
    "nn": lambda: nn.RMSNorm(WIDTH, eps=1e-2),
    "nn, default epsilon": lambda: nn.RMSNorm(WIDTH),
    "written out": Root,
    "stored less one": lambda: Root(shift=1.0),
}


def stream(norm: nn.Module, inputs: int = 5) -> nn.Module:
    """A residual stream of WIDTH units that a norm reads."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        h = self.i(x)
        h = h + self.b(torch.tanh(self.a(self.n(h))))
        return self.o(self.n2(h))

    parts = {"a": nn.Linear(WIDTH, 7), "b": nn.Linear(7, WIDTH), "o": nn.Linear(WIDTH, 3)}
    return generic_(Net(forward, i=nn.Linear(inputs, WIDTH), n=norm, n2=type_like(norm), **parts))


def stream64(norm: nn.Module) -> nn.Module:
    """In float64 from the start: a weight that is rescaled in float32 is rounded there."""
    return stream(norm).double()


def type_like(norm: nn.Module) -> nn.Module:
    made = next(build() for build in [*NORMS.values(), lambda: nn.LayerNorm(WIDTH)] if type(build()) is type(norm))
    if isinstance(norm, Root):
        made.shift = norm.shift
    return made


def hidden(graph: Graph) -> list[str]:
    return [group.exactness for group in graph.groups if group.kind == "hidden"]


@pytest.mark.parametrize("name", NORMS)
def test_rms_norm_is_frozen_or_made_exact_in_the_users_class(name: str) -> None:
    model, x = stream64(NORMS[name]()), torch.randn(2, 4, 5, dtype=torch.float64)
    assert hidden(trace(model, x)) == []
    graph = trace(model, x, inexact="compensate")
    assert hidden(graph) == ["compensated"]
    for seed, ratio in enumerate((0.3, 0.5)):
        _, small = thin(graph, model, ratio, seed)
        assert type(small) is type(model)


def test_compensation_is_the_closed_form() -> None:
    """Of 12 units 3 stay: the weight doubles (root of 4), epsilon quadruples."""
    model, x = stream(Root()), torch.randn(2, 4, 5)
    graph = trace(model, x, inexact="compensate")
    name = next(group.name for group in graph.groups if group.kind == "hidden")
    small = Plan(graph, {name: torch.tensor([1, 4, 9])}).apply(model)
    torch.testing.assert_close(small.n.weight, 2 * model.n.weight[[1, 4, 9]])
    assert small.n.variance_epsilon == pytest.approx(4e-2)
    assert model.n.variance_epsilon == 1e-2


def test_weight_stored_less_one_grows_by_its_whole() -> None:
    model, x = stream(Root(shift=1.0)), torch.randn(2, 4, 5)
    graph = trace(model, x, inexact="compensate")
    name = next(group.name for group in graph.groups if group.kind == "hidden")
    small = Plan(graph, {name: torch.tensor([1, 4, 9])}).apply(model)
    torch.testing.assert_close(small.n.weight, 2 * (model.n.weight[[1, 4, 9]] + 1) - 1)


def test_weight_that_two_norms_share_cannot_make_up_for_either() -> None:
    model = stream(Root())
    model.n2 = model.n
    graph = trace(model, torch.randn(2, 4, 5), inexact="compensate")
    assert hidden(graph) == []
    assert "the mean or variance counts it" in graph.why("i.weight", 0)


def test_epsilon_and_weight_compose_over_two_plans_and_come_back_from_a_file(tmp_path: Path) -> None:
    model, x = stream(Root()), torch.randn(2, 4, 5)
    small = model
    for seed in (1, 2):
        graph = trace(small, x, inexact="compensate")
        small = Plan.from_pruned(graph, removal(graph, 0.4, seed)).apply(small)
    left = small.i.out_features
    assert small.n.variance_epsilon == pytest.approx(1e-2 * WIDTH / left)
    again = load(save(small, tmp_path / "m.prunus"), lambda: stream(Root()))
    assert again.n.variance_epsilon == small.n.variance_epsilon
    assert torch.equal(again(x), small(x))


def test_a_norm_of_groups_of_units_is_made_exact() -> None:
    """As Mamba2's gated norm: each group has a mean of its own, and one weight spans all of them."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        h = self.i(x).unflatten(-1, (3, -1))
        scaled = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-2)
        return self.o(self.weight * scaled.flatten(2))

    parts = {"i": nn.Linear(5, WIDTH), "weight": nn.Parameter(torch.randn(WIDTH)), "o": nn.Linear(WIDTH, 3)}
    model, x = generic_(Net(forward, **parts)).double(), torch.randn(2, 4, 5).double()
    assert [group.size for group in trace(model, x).groups] == [3]
    graph = trace(model, x, inexact="compensate")
    assert sorted((group.size, group.exactness) for group in graph.groups) == [(3, "exact"), (4, "compensated")]
    thin(graph, model, 0.5)


def test_response_normalisation_is_made_exact() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return self.o(self.r(torch.relu(self.i(x))))

    model = generic_(Net(forward, i=nn.Linear(5, WIDTH), r=Response(), o=nn.Linear(WIDTH, 3)))
    x = torch.randn(2, 4, 5)
    assert trace(model, x).groups == ()
    graph = trace(model, x, inexact="compensate")
    assert [group.exactness for group in graph.groups] == ["compensated"]
    _, small = thin(graph, model, 0.5)
    torch.testing.assert_close(small.r.eps, 1e-2 * 2)
    assert type(small) is type(model)


def test_pinned_scale_keeps_attention_exact_when_heads_get_narrower() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (m(x).unflatten(-1, (2, 8)).transpose(1, 2) for m in (self.q, self.k, self.v))
        return self.o(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    model = generic_(Net(forward, **{n: nn.Linear(6, 16) for n in "qkv"}, o=nn.Linear(16, 3))).double()
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    assert sorted(g.kind for g in trace(model, x).groups) == ["head", "head dim"]
    graph = trace(model, x, inexact="compensate")
    assert sorted(g.kind for g in graph.groups) == ["head", "head dim", "head dim"]
    thin(graph, model, 0.5)


@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_layer_norm_over_what_is_left_is_proved_against_the_norm_of_kept_positions(ratio: float) -> None:
    model, x = stream(nn.LayerNorm(WIDTH)), torch.randn(2, 4, 5)
    assert hidden(trace(model, x, inexact="compensate")) == []
    graph = trace(model, x, inexact="allow")
    assert hidden(graph) == ["inexact"]
    plan = Plan.from_pruned(graph, removal(graph, ratio, 3))
    small = plan.apply(model)
    record = record_of(small)
    assert record is not None
    assert record.inexact
    assert record.proof is not None
    assert record.proof.passed
    assert type(small) is type(model)
    # by hand: the same residual stream, each norm over kept positions only
    kept = plan.kept[next(group.name for group in graph.groups if group.kind == "hidden")]
    inner = plan.kept.get("a", torch.arange(7))
    m, y = model.double(), x.double()
    h = (y @ m.i.weight.T + m.i.bias)[..., kept]
    normed = functional.layer_norm(h, (len(kept),), m.n.weight[kept], m.n.bias[kept])
    a = torch.tanh(normed @ m.a.weight[inner][:, kept].T + m.a.bias[inner])
    h = h + a @ m.b.weight[kept][:, inner].T + m.b.bias[kept]
    want = functional.layer_norm(h, (len(kept),), m.n2.weight[kept], m.n2.bias[kept]) @ m.o.weight[:, kept].T + m.o.bias
    assert_same([want], outputs(small, (x,)))
    assert not torch.allclose(plan.mask(model)(y), want)  # another function than the masked model


def test_standardised_weights_and_group_norm_slots_run_over_what_is_left() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return self.o(torch.relu(self.s(torch.relu(self.g(self.i(x))))).mean((2, 3)))

    parts = {"i": nn.Conv2d(3, 12, 1), "g": nn.GroupNorm(2, 12), "s": Standardised(12, 8, 3), "o": nn.Linear(8, 3)}
    model, x = generic_(Net(forward, **parts)), torch.randn(2, 3, 6, 6)
    before = {group.name: group.size for group in trace(model, x).groups}
    graph = trace(model, x, inexact="allow")
    assert {group.size for group in graph.groups} > set(before.values())
    small = Plan.from_pruned(graph, removal(graph, 0.5, 0)).apply(model)
    assert record_of(small).proof.passed  # type: ignore[union-attr]
    assert small.g.num_channels < 12


def test_policy_is_one_of_three_words() -> None:
    with pytest.raises(InputError, match="inexact is 'compensated'; choose one of forbid, compensate, allow"):
        trace(stream(Root()), torch.randn(2, 4, 5), inexact="compensated")  # type: ignore[arg-type]


def test_graph_under_a_policy_is_captured_again_under_it(tmp_path: Path) -> None:
    """A literal in the code gives a graph; a file of it needs the policy under which its groups exist."""

    def build() -> nn.Module:
        def forward(self: nn.Module, x: Tensor) -> Tensor:
            return self.o(self.n(self.i(x)).view(2, 4, WIDTH))

        return Net(forward, i=nn.Linear(5, WIDTH), n=Root(), o=nn.Linear(WIDTH, 3))

    model, x = generic_(build()), torch.randn(2, 4, 5)
    graph = trace(model, x, inexact="compensate")
    small = Plan.from_pruned(graph, removal(graph, 0.5, 0)).apply(model)
    assert record_of(small).form == "graph"  # type: ignore[union-attr]
    again = load(save(small, tmp_path / "m.prunus"), build)
    assert torch.equal(again(x), small(x))
    assert verify(model, tmp_path / "m.prunus", x).holds


def test_averaged_weights_are_rescaled_like_the_models_own() -> None:
    model, x = stream(Root()), torch.randn(2, 4, 5)
    graph = trace(model, x, inexact="compensate")
    plan = Plan.from_pruned(graph, removal(graph, 0.5, 0))
    small = plan.apply(model).state_dict()
    cut = plan.cut(model.state_dict())
    assert cut.keys() == small.keys()
    assert all(torch.equal(cut[name], small[name]) for name in small)
