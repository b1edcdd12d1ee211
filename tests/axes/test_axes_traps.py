"""What must not be pruned: each operation freezes, and the reason names it and the line of this file."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from axes.proving import Net, check, conv, generic_, images, thin
from prunus.axes import trace
from prunus.errors import CaptureError, InputError, NameNotFound, ProofError
from prunus.plans import Plan

HERE = r"test_axes_traps\.py:\d+"


def sigmoid_in_place(self: nn.Module, x: Tensor) -> Tensor:
    y = self.c(x)
    y.sigmoid_()
    return y.sum(1)


def overwrite_through_a_view(self: nn.Module, x: Tensor) -> Tensor:
    y = self.c(x)
    y.flatten(2).transpose(1, 2).add_(1.0)
    return y.sum(1)


def overwrite_behind_a_view(self: nn.Module, x: Tensor) -> Tensor:
    y = self.c(x)
    view = y.flatten(2)
    y.add_(1.0)
    return view.sum(1)


def overwrite_what_dropout_hands_on(self: nn.Module, x: Tensor) -> Tensor:
    y = self.c(x)
    functional.dropout(y, 0.5, self.training).add_(1.0)
    return y.sum(1)


def overwrite_a_sibling(self: nn.Module, x: Tensor) -> Tensor:
    y = self.c(x)
    left = y[:, :, :4]
    y[:, :, 2:].add_(1.0)
    return left.sum(1)


def fill_a_row(self: nn.Module, x: Tensor) -> Tensor:
    y = self.c(x)
    y[:, :, 0] = 5.0
    return self.e(y)


def put_by_index(self: nn.Module, x: Tensor) -> Tensor:
    y = self.c(x)
    y[:, torch.tensor([0, 2])] = 1.0
    return self.e(y)


TRAPS: dict[str, tuple[Callable[..., Tensor], str]] = {
    "mean": (lambda s, x: s.c(x).mean(1), "aten.mean.dim"),
    "variance": (lambda s, x: s.c(x) * s.c(x).var(1, keepdim=True), "aten.var"),
    "variance of all": (lambda s, x: s.e(s.c(x) * s.c(x).var(unbiased=False)), "aten.var"),
    "standard deviation of all": (lambda s, x: s.e(s.c(x) * s.c(x).std()), "aten.std"),
    "softmax": (lambda s, x: s.e(s.c(x).softmax(1)), "aten.softmax"),
    "log_softmax": (lambda s, x: s.e(s.c(x).log_softmax(1)), "aten.log_softmax"),
    "LayerNorm": (lambda s, x: s.e(functional.layer_norm(s.c(x), (8, 6, 6))), "aten.layer_norm"),
    "LocalResponseNorm": (lambda s, x: s.e(functional.local_response_norm(s.c(x), 3)), "aten.avg_pool3d"),
    "sigmoid, then sum": (lambda s, x: s.c(x).sigmoid().sum(1), "aten.sum"),
    "sigmoid in place, then sum": (sigmoid_in_place, "aten.sum"),
    "x + 1, then sum": (lambda s, x: (s.c(x) + 1).sum(1), "aten.sum"),
    "logcumsumexp, then sum": (lambda s, x: s.c(x).logcumsumexp(3).sum(1), "aten.sum"),
    "softplus, then sum": (lambda s, x: functional.softplus(s.c(x)).sum(1), "aten.sum"),
    "clamp above 0, then sum": (lambda s, x: s.c(x).clamp(0.5, 2).sum(1), "aten.sum"),
    "masked_fill with 1, then sum": (lambda s, x: s.c(x).masked_fill(x[:, :1] > 0, 1.0).sum(1), "aten.sum"),
    "where with 1, then sum": (lambda s, x: torch.where(x[:, :1] > 0, s.c(x), 1.0).sum(1), "aten.sum"),
    "division by it": (lambda s, x: s.e(x[:, :1] / s.c(x)), "aten.div"),
    "reciprocal": (lambda s, x: s.e(s.c(x).reciprocal()), "aten.reciprocal"),
    "remainder by it": (lambda s, x: s.e(torch.remainder(x[:, :1], s.c(x))), "aten.remainder"),
    "addcdiv by it": (lambda s, x: s.e(torch.addcdiv(x[:, :1], x[:, :1], s.c(x))), "aten.addcdiv"),
    "log": (lambda s, x: s.e(s.c(x).abs().log()), "aten.log"),
    "rsqrt": (lambda s, x: s.e(s.c(x).abs().rsqrt()), "aten.rsqrt"),
    "negative power": (lambda s, x: s.e(s.c(x).abs() ** -1), "aten.pow"),
    "max": (lambda s, x: s.c(x).amax(1), "aten.amax"),
    "max with index": (lambda s, x: s.c(x).max(1)[0], "aten.max.dim"),
    "argmax": (lambda s, x: s.c(x).argmax(1) * x[:, 0], "aten.mul"),
    "median": (lambda s, x: s.e(s.c(x) * s.c(x).median()), "aten.median"),
    "product": (lambda s, x: s.c(x).prod(1), "aten.prod"),
    "logsumexp": (lambda s, x: s.c(x).logsumexp(1), "aten.logsumexp"),
    "maximum norm": (lambda s, x: s.c(x).norm(p=float("inf"), dim=1), "norm"),
    "cumsum": (lambda s, x: s.e(s.c(x).sigmoid().cumsum(1)), "aten.cumsum"),
    "sort": (lambda s, x: s.e(s.c(x).sort(1)[0]), "aten.sort"),
    "topk": (lambda s, x: s.c(x).topk(3, 1)[0], "aten.topk"),
    "argsort": (lambda s, x: s.e(s.c(x).argsort(1) * 1.0), "aten.argsort"),
    "select": (lambda s, x: s.c(x)[:, 3], "aten.select"),
    "index": (lambda s, x: s.c(x)[:, [3, 1]], "aten.index"),
    "gather": (lambda s, x: s.c(x).gather(1, torch.zeros(2, 1, 6, 6, dtype=torch.int64)), "aten.gather"),
    "strided slice": (lambda s, x: s.d(s.c(x)[:, ::2]), "aten.slice"),
    "flip": (lambda s, x: s.e(s.c(x).flip(1)), "aten.flip"),
    "roll of everything": (lambda s, x: s.e(s.c(x).roll(1)), "aten.roll"),
    "tril": (lambda s, x: s.e(s.c(x).transpose(1, 2).tril().transpose(1, 2)), "aten.tril"),
    "repeat_interleave": (lambda s, x: s.c(x).repeat_interleave(2, 1).mul(2).sum(1), "aten.sum"),
    "operation without a rule": (lambda s, x: s.e(s.c(x).cummin(3)[0]), "aten.cummin"),
    "put by index": (put_by_index, "aten.index_put"),
    "fill through a view": (fill_a_row, "aten.fill"),
    "add in place through a view": (overwrite_through_a_view, "aten.add_"),
    "add in place behind a view": (overwrite_behind_a_view, "aten.add_"),
    "add in place to what dropout hands on": (overwrite_what_dropout_hands_on, "aten.add_"),
    "add in place to an overlapping view": (overwrite_a_sibling, "aten.add_"),
    "compared with arange": (lambda s, x: s.e(s.c(x) * (torch.arange(8).view(8, 1, 1) < 4)), "aten.arange"),
    "pooling over channels": (
        lambda s, x: functional.avg_pool1d(s.c(x).flatten(2).transpose(1, 2), 2).mul(2).sum(2),
        "aten.avg_pool1d",
    ),
    "reflection over channels": (
        lambda s, x: functional.pad(s.c(x).flatten(2).transpose(1, 2), (1, 1), mode="reflect").sum(2), "aten.pad",
    ),
    "product of two that are not zero": (
        lambda s, x: s.c(x).sigmoid().flatten(2).transpose(1, 2) @ s.c(x).exp().flatten(2), "aten.matmul",
    ),
    "einsum of two that are not zero": (
        lambda s, x: torch.einsum("bchw,bchw->bhw", s.c(x).sigmoid(), s.c(x).exp()), "aten.einsum",
    ),
    "output": (lambda s, x: s.c(x), "it is an output of the model"),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAPS)
def test_trap_freezes_the_channels_and_names_operation_and_line(name: str) -> None:
    function, operation = TRAPS[name]
    graph = trace(generic_(Net(function, c=conv(3, 8), e=conv(8, 4), d=conv(4, 4))), images())
    reason = graph.why("c.weight", 0)
    assert "c.weight dim 0 is frozen" in reason
    assert operation in reason
    assert operation == "it is an output of the model" or re.search(HERE, reason)
    assert not any(m.param == "c.weight" for g in graph.groups for m in g.members)


def test_what_an_unknown_operation_touched_is_listed_with_its_line() -> None:
    graph = trace(Net(lambda s, x: s.e(s.c(x).cummin(3)[0]), c=conv(3, 8), e=conv(8, 4)), images())
    assert list(graph.unknown) == ["aten.cummin"]
    assert re.fullmatch(HERE, graph.unknown["aten.cummin"][0])
    assert re.search(rf"no rule for aten.cummin at {HERE}", str(graph))


FREE: dict[str, Callable[..., Tensor]] = {
    "sum of zeros": lambda s, x: s.c(x).relu().sum(1),
    "Euclidean norm": lambda s, x: s.c(x).norm(dim=1),
    "normalize": lambda s, x: s.e(functional.normalize(s.c(x), dim=1)),
    "cumsum along space": lambda s, x: s.c(x).cumsum(3).sum(1),
    "statistics along space": lambda s, x: s.e(s.c(x) * s.c(x).var((2, 3), keepdim=True)),
    "softmax along space": lambda s, x: s.e(s.c(x).flatten(2).softmax(2).view(2, -1, 6, 6)),
    "sigmoid, then weights": lambda s, x: s.e(s.c(x).sigmoid()),
    "division of it": lambda s, x: s.e(s.c(x) / (x[:, :1].abs() + 1)),
    "flip along space": lambda s, x: s.e(s.c(x).flip(2, 3)),
    "masked_fill with 0": lambda s, x: s.c(x).masked_fill(x[:, :1] > 0, 0.0).sum(1),
    "assertion on a shape": lambda s, x: (torch._assert(s.c(x).dim() == 4, "four"), s.e(s.c(x)))[1],
    "comparison of sizes": lambda s, x: s.e(s.c(x)) if s.c(x).shape[1] > 1 else x,
}


@pytest.mark.parametrize("name", FREE)
def test_harmless_operation_freezes_nothing(name: str) -> None:
    """The other side of every trap: caution must not cost what is safe."""
    graph = check(Net(FREE[name], c=conv(3, 8), e=conv(8, 4)), images())
    assert [g.name for g in graph.groups] == ["c"]


def test_odd_interleave_is_a_conflict_with_a_reason_or_keeps_the_pairs() -> None:
    """29 x 2 against 29 + 29 has no common axes: the two halves freeze, or nothing is asked of them."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        mixed = self.c(x).view(2, 29, 2, 36).transpose(1, 2).reshape(2, 58, 6, 6)
        first, second = mixed.view(2, 29, 2, 36).transpose(1, 2).reshape(2, 58, 6, 6).chunk(2, 1)
        return self.e(first) + self.f(second)

    graph = trace(Net(forward, c=conv(3, 58), e=conv(29, 4), f=conv(29, 4)), images())
    assert "cannot be matched" in graph.why("c.weight", 0)


def test_half_of_a_chunk_is_frozen_with_the_other() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        first, second = self.c(x).chunk(2, 1)
        return self.e(first.softmax(1)) + self.f(self.d(second))

    model = Net(forward, c=conv(3, 16), d=conv(8, 6), e=conv(8, 4), f=conv(6, 4))
    graph = check(model, images())
    assert [group.name for group in graph.groups] == ["d"]
    assert "one number sizes it and an axis that is frozen: its positions are mixed" in graph.why("d.weight", 1)


def test_pieces_of_unequal_size_do_not_block_every_plan() -> None:
    """split(16) of 40 makes 16, 16 and 8: those can never be equal."""
    model = Net(lambda s, x: s.e(torch.cat([p.relu() for p in s.c(x).split(16, 1)], 1)), c=conv(3, 40), e=conv(40, 4))
    graph = trace(generic_(model), images())
    Plan(graph, {})
    if graph.groups:
        check(model, images(), own_class=False)


def test_value_that_is_both_sides_of_a_square_is_frozen() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = self.c(x).flatten(2)
        return self.e((y @ y.transpose(1, 2)).flatten(1))

    graph = trace(Net(forward, c=conv(3, 8), e=nn.Linear(64, 4)), images())
    assert graph.groups == ()
    assert "two of its units" in graph.why("c.weight", 0)


def test_weight_of_one_dimension_is_no_error() -> None:
    model = Net(lambda s, x: functional.linear(s.c(x).mean((2, 3)), s.v), c=conv(3, 8), v=nn.Parameter(torch.randn(8)))
    trace(generic_(model), images())


class Routed(nn.Module):
    """Experts in a loop over the rows that chose them: values decide what runs, and on how many rows."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.out = nn.Linear(6, 3), nn.Linear(6, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.gate(x).argmax(-1)
        mixed = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            rows = (chosen == i).nonzero()[:, 0]
            if len(rows):
                mixed = mixed.index_add(0, rows, expert(x[rows]))
        return self.out(torch.relu(mixed))


def test_values_that_decide_what_runs_are_captured_as_the_example_ran() -> None:
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    model = generic_(Routed())
    with torch.no_grad():
        model.gate.bias[2] = -99.0  # no row of any example goes there
    graph = trace(model, x)
    assert graph.trace.concrete
    assert "the rest stays whole" in str(graph)
    assert {group.name for group in graph.groups} == {"experts.0.0", "experts.1.0"}
    assert "the example inputs never reach experts.2.0.weight" in graph.why("experts.2.0.weight", 0)
    _, small = thin(graph, model, 0.5)
    assert type(small) is Routed
    with torch.no_grad():
        small.gate.bias[2] = 99.0
        assert small(x).shape == (20, 2)  # what the example never reached still fits


def test_one_run_cannot_take_the_place_of_a_model() -> None:
    model = Net(lambda s, x: s.e(s.c(x).view(-1, 8)) if x.sum() > -99 else x, c=nn.Linear(3, 8), e=nn.Linear(8, 2))
    graph = trace(generic_(model), torch.randn(4, 3))
    assert graph.trace.concrete
    with pytest.raises(ProofError, match="cannot run with fewer channels"):
        thin(graph, model, 0.5)


def test_wrong_inputs_are_named_with_their_shape() -> None:
    with pytest.raises(CaptureError, match=r"fails on the example inputs \[\(2, 5, 6, 6\)\]"):
        trace(Net(lambda s, x: s.c(x), c=conv(3, 3)), images(5))


@pytest.mark.parametrize("inputs", [None, (), []])
def test_no_inputs_is_an_input_error(inputs: object) -> None:
    with pytest.raises(InputError, match="no example inputs"):
        trace(conv(3, 3), inputs)


def test_model_without_tensor_output_is_refused() -> None:
    with pytest.raises(CaptureError, match="returns no tensor"):
        trace(Net(lambda s, x: 3, c=conv(3, 3)), images())


def test_capture_leaves_training_flags_and_values_alone() -> None:
    model = Net(lambda s, x: s.b(s.c(x)), c=conv(3, 8), b=nn.BatchNorm2d(8))
    model.train()
    model.b.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trace(model, images())
    assert model.training
    assert model.c.training
    assert not model.b.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


class Anchored(Net):
    """Keeps what its forward computes, as detectors do with the anchors of the last image size."""

    anchors = torch.empty(0)
    last_shape: torch.Size | None = None
    seen: list[Tensor]

    def forward(self, x: Tensor) -> Tensor:
        x = self.e(self.c(x))
        self.seen.append(x.detach())
        if self.last_shape != x.shape:
            self.last_shape, self.anchors = x.shape, torch.arange(x.shape[-1]) + 0.5
        return x + self.anchors


def test_capture_leaves_what_a_forward_keeps_alone() -> None:
    model = Anchored(lambda s, x: x, c=conv(3, 8), e=conv(8, 4)).eval()
    model.seen = []
    graph = trace(model, images())
    assert model.seen == []
    assert model.last_shape is None
    assert "anchors" not in vars(model)
    thin(graph, model, 0.5)


def test_why_names_near_parameters_and_wrong_dimensions() -> None:
    graph = trace(Net(lambda s, x: s.e(s.c(x)), c=conv(3, 8), e=conv(8, 4)), images())
    assert graph.why("c.weight", 0) == "c.weight dim 0 belongs to c (8 units, 3 members)"
    assert graph.why("e.weight", -3) == "e.weight dim -3 belongs to c (8 units, 3 members)"
    with pytest.raises(NameNotFound, match=r"c\.weight"):
        graph.why("c.wieght", 0)
    with pytest.raises(InputError, match="dim 4 does not exist"):
        graph.why("c.weight", 4)
    with pytest.raises(NameNotFound):
        _ = graph["d"]
