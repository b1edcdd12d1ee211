"""Weight norm, g * v / ||v||: rows of v go with g, and stay as they are where g alone is zeroed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

import prunus
import torchvision_ops  # noqa: F401 - transformers looks for torchvision
from axes.proving import Net, check, conv, generic_, groups, images, removal, thin
from prunus.axes import trace
from prunus.granularity.targets import group_targets
from prunus.plans import Plan, verify

Normed = Callable[..., Any]


def _old(module: nn.Module, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return weight_norm(module, **kwargs)


STYLES: dict[str, Normed] = {"old": _old, "new": parametrizations.weight_norm}
NAMES = {"old": ("weight_g", "weight_v"), "new": tuple(f"parametrizations.weight.original{i}" for i in (0, 1))}


def _transposed(inputs: int, outputs: int, **kwargs: Any) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 3, padding=1, **kwargs)


def _chain(*layers: nn.Module) -> Net:
    def forward(self: Any, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x.relu())
        return x

    return Net(forward, **{f"layer{i}": layer for i, layer in enumerate(layers)})


@pytest.mark.parametrize("style", STYLES)
def test_rows_go_with_their_length_and_columns_with_what_they_read(style: str) -> None:
    normed, (g, v) = STYLES[style], NAMES[style]
    model = Net(lambda s, x: s.e(s.c(x).relu()), c=normed(conv(3, 8)), e=normed(conv(8, 4)))
    graph = check(model, images())
    assert groups(graph) == {"c": (8, {"c.bias:0", f"c.{g}:0", f"c.{v}:0", f"e.{v}:1"})}
    assert {m.param: m.role for m in graph["c"].members if m.param != "c.bias"} == {
        f"c.{g}": "out", f"c.{v}": "spared", f"e.{v}": "in",
    }  # fmt: skip
    assert graph["c"].kind == "channel"
    small = thin(graph, model, 0.5)[1]
    assert (small.c.out_channels, small.e.in_channels) == (4, 4)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "layer",
    [
        lambda normed: normed(conv(8, 6), dim=1),
        lambda normed: normed(conv(8, 6), dim=2),
        lambda normed: normed(conv(8, 6), dim=-3),
        lambda normed: normed(conv(8, 6), dim=None),
        lambda normed: normed(conv(8, 6, groups=2)),
        lambda normed: normed(_transposed(8, 6)),
        lambda normed: normed(_transposed(8, 6, groups=2)),
        lambda normed: normed(_transposed(8, 6), dim=1),
    ],
    ids=["dim 1", "dim 2", "dim -3", "dim None", "grouped", "transposed", "transposed grouped", "transposed dim 1"],
)
def test_any_dimension_may_have_the_norms(style: str, layer: Callable[[Normed], nn.Module]) -> None:
    normed = STYLES[style]
    model = _chain(normed(conv(3, 8)), layer(normed), normed(conv(6, 4)))
    graph = check(model, images())
    assert {group.name for group in graph.groups} >= {"layer0", "layer1"}
    assert {group.kind for group in graph.groups} == {"channel"}


def test_the_masked_model_zeroes_lengths_and_leaves_directions() -> None:
    model = generic_(_chain(parametrizations.weight_norm(conv(3, 8)), conv(8, 4)))
    plan = Plan(trace(model, images()), {"layer0": torch.tensor([0, 5])})
    weight = plan.mask(model).layer0.parametrizations.weight
    assert weight.original0.flatten().nonzero().flatten().tolist() == [0, 5]
    assert torch.equal(weight.original1, model.layer0.parametrizations.weight.original1)
    assert plan.surgery().spared == {("layer0.parametrizations.weight.original1", 0)}


def test_a_generator_of_transposed_and_dilated_convolutions_gets_thinner() -> None:
    """As HiFi-GAN has it: the norms of a transposed convolution belong to the channels that it reads."""
    normed = parametrizations.weight_norm
    up = [normed(nn.ConvTranspose1d(2 * n, n, 4, 2, padding=1)) for n in (8, 4)]
    blocks = [normed(nn.Conv1d(n, n, 3, padding=2, dilation=2)) for n in (8, 4)]

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.pre(x)
        for rise, block in zip(self.up, self.blocks, strict=True):
            x = rise(nn.functional.leaky_relu(x, 0.1))
            x = x + block(nn.functional.leaky_relu(x, 0.1))
        return self.post(nn.functional.leaky_relu(x)).tanh()

    ends = {"pre": normed(nn.Conv1d(5, 16, 7, padding=3)), "post": normed(nn.Conv1d(4, 1, 7, padding=3))}
    model = Net(forward, up=nn.ModuleList(up), blocks=nn.ModuleList(blocks), **ends)
    graph = check(model, torch.randn(2, 5, 6))
    assert sorted(group.size for group in graph.groups) == [4, 8, 16]


def test_a_direction_that_something_else_reads_keeps_its_rows() -> None:
    model = _chain(parametrizations.weight_norm(conv(3, 8)), conv(8, 4))
    direction = model.layer0.parametrizations.weight.original1
    other = Net(lambda s, x: s.m(x) * s.m.layer0.parametrizations.weight.original1.sum(), m=model)
    graph = trace(generic_(other), images())
    assert direction.shape[0] == 8
    reason = graph.why("m.layer0.parametrizations.weight.original1", 0)
    assert "it is divided by a norm, 0 for a row of zeros, and read elsewhere too (aten._weight_norm" in reason
    assert not graph.groups


def test_directions_shared_by_two_norms_go_together() -> None:
    first, second = (parametrizations.weight_norm(conv(8, 8)) for _ in range(2))
    second.parametrizations.weight.original1 = first.parametrizations.weight.original1
    graph = check(_chain(conv(3, 8), first, second, conv(8, 4)), images())
    assert all("parametrizations" not in frozen.param for frozen in graph.frozen)


def test_the_operation_that_also_returns_its_norms_follows_the_same_rule() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        weight, norms = torch._weight_norm_interface(self.v, self.g, 0)
        return self.e((nn.functional.linear(x, weight) * norms.flatten()).relu())

    g, v = nn.Parameter(torch.randn(8, 1)), nn.Parameter(torch.randn(8, 3))
    graph = check(Net(forward, g=g, v=v, e=nn.Linear(8, 2)), torch.randn(4, 3))
    assert [members for _, members in groups(graph).values()] == [{"g:0", "v:0", "e.weight:1"}]


def test_a_file_keeps_what_is_spared_so_that_it_can_be_verified(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return generic_(_chain(parametrizations.weight_norm(conv(3, 8)), parametrizations.weight_norm(conv(8, 4))))

    model = build()
    graph = trace(model, images())
    small = Plan.from_pruned(graph, removal(graph, 0.5, 0)).apply(model)
    path = prunus.save(small, tmp_path / "small.prunus")
    assert verify(build, path, images()).holds


def test_what_two_plans_spare_adds_up() -> None:
    def build() -> nn.Module:
        layers = [parametrizations.weight_norm(conv(*sizes)) for sizes in ((3, 8), (8, 6), (6, 4))]
        return generic_(_chain(*layers))

    small = build()
    for name in ("layer0", "layer1"):
        small = Plan(trace(small, images()), {name: torch.tensor([1, 4])}).apply(small)
    assert verify(build, small, images()).holds


def test_constants_of_units_without_length_are_folded() -> None:
    model = generic_(_chain(parametrizations.weight_norm(nn.Linear(3, 8)), nn.Linear(8, 4)))
    plan = Plan(trace(model, torch.randn(2, 3)), {"layer0": torch.tensor([1, 2, 6])})
    assert plan.folding(model).folded == ("layer0",)
    small, x = plan.apply(model, fold_constants=True), torch.randn(5, 3)
    weight = model.layer0.parametrizations.weight
    weight.original0.data[[0, 3, 4, 5, 7]] = 0
    torch.testing.assert_close(small(x), model(x))


def test_masks_of_groups_leave_directions_alone() -> None:
    model = generic_(_chain(parametrizations.weight_norm(conv(3, 8)), conv(8, 4)))
    (target,) = group_targets(trace(model, images()), "filter")
    names = {"layer0.bias", "layer0.parametrizations.weight.original0", "layer1.weight"}
    assert {part.param for part in target.parts} == names
    assert [part.param for part in target.scored] == ["layer0.parametrizations.weight.original0"]


def test_encodec_gets_thinner_in_its_own_class() -> None:
    pytest.importorskip("transformers")
    from transformers import EncodecConfig, EncodecModel

    sizes = {"num_filters": 4, "hidden_size": 8, "codebook_size": 16, "num_lstm_layers": 1, "kernel_size": 3}
    rates = {"upsampling_ratios": [2, 2], "sampling_rate": 8, "target_bandwidths": [0.01], "last_kernel_size": 3}
    model = EncodecModel(EncodecConfig(**sizes, **rates)).eval()
    graph = trace(model, torch.randn(1, 1, 16))
    small = thin(graph, model, 0.5)[1]
    assert type(small) is EncodecModel
    assert sum(p.numel() for p in small.parameters()) < 0.5 * sum(p.numel() for p in model.parameters())
