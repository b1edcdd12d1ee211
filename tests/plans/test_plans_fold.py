"""Constants of removed units go into the biases of their readers, where that is exact, and nowhere else."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from axes.proving import Net, assert_same, conv, generic_, images, outputs, redrawn, removal
from prunus import oneshot, zoo
from prunus.axes import trace
from prunus.plans import Plan, load, record_of, save, verify
from prunus.plans.proof import distance
from prunus.zoo.densenet import densenet_cifar

GONE = torch.tensor([True, False, False, True, False, True])
ROWS = GONE.nonzero().flatten()


def planned(model: nn.Module, x: Tensor, **pruned: Tensor) -> Plan:
    graph = trace(generic_(model), x)
    return Plan.from_pruned(graph, pruned or {graph.groups[0].name: GONE})


def mlp(**second: Any) -> nn.Module:
    return Net(lambda s, x: s.b(s.a(x).relu()), a=nn.Linear(4, 6), b=nn.Linear(6, 3, **second))


def test_linear_relu_linear_in_closed_form() -> None:
    model, x = mlp(), torch.randn(5, 4)
    plan = planned(model, x)
    small = plan.apply(model, fold_constants=True)
    constant = model.a.bias[ROWS].relu()
    torch.testing.assert_close(small.b.bias, model.b.bias + model.b.weight[:, ROWS] @ constant)
    torch.testing.assert_close(small.b.weight, model.b.weight[:, ~GONE], rtol=0, atol=0)
    half = copy.deepcopy(model)
    half.a.weight.data[ROWS] = 0
    torch.testing.assert_close(half(x), small(x))
    proof, form = plan.prove(model, fold_constants=True)
    assert proof.passed
    assert form == "class"


def blocks(reader: nn.Module, **more: nn.Module) -> nn.Module:
    def forward(s: Net, x: Tensor) -> Tensor:
        y = s.reader(s.norm(s.conv(x)).relu())
        return (s.after(y) if "after" in more else y).mean((2, 3))

    parts = {"conv": conv(3, 6, bias=False), "norm": nn.BatchNorm2d(6), "reader": reader}
    return Net(forward, **parts, **more)


def shift(norm: nn.BatchNorm2d) -> Tensor:
    """What a norm and a relu make of the removed channels of a convolution without bias."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (norm.bias - norm.running_mean * scale)[ROWS].relu()


def test_conv_norm_relu_pointwise_in_closed_form() -> None:
    model = blocks(nn.Conv2d(6, 4, 1))
    small = planned(model, images()).apply(model, fold_constants=True)
    want = model.reader.bias + model.reader.weight[:, ROWS, 0, 0] @ shift(model.norm)
    torch.testing.assert_close(small.reader.bias, want)


@pytest.mark.parametrize("padding", [{}, {"padding": 1, "padding_mode": "reflect"}, {"padding": "valid"}])
def test_convolutions_that_see_the_constant_everywhere_are_folded(padding: dict[str, Any]) -> None:
    model = blocks(nn.Conv2d(6, 4, 3, **padding))
    small = planned(model, images()).apply(model, fold_constants=True)
    want = model.reader.bias + model.reader.weight[:, ROWS].sum((2, 3)) @ shift(model.norm)
    torch.testing.assert_close(small.reader.bias, want)


def test_a_norm_behind_a_reader_without_bias_takes_the_constant_from_its_mean() -> None:
    model = blocks(nn.Conv2d(6, 4, 1, bias=False), after=nn.BatchNorm2d(4))
    plan = planned(model, images(), conv=GONE)
    small = plan.apply(model, fold_constants=True)
    want = model.after.running_mean - model.reader.weight[:, ROWS, 0, 0] @ shift(model.norm)
    torch.testing.assert_close(small.after.running_mean, want)
    assert small.reader.bias is None


@pytest.mark.parametrize("padding", [1, "same"])
def test_a_reader_that_pads_with_zeros_leaves_its_group_unfolded(padding: Any) -> None:
    def forward(s: Net, x: Tensor) -> Tensor:
        return s.head(s.second(s.first(x).relu()).relu().mean((2, 3)))

    model = Net(forward, first=conv(3, 6), second=nn.Conv2d(6, 6, 3, padding=padding), head=nn.Linear(6, 2))
    plan = planned(model, images(), first=GONE, second=GONE)
    small, plain = plan.apply(model, fold_constants=True), plan.apply(model)
    assert torch.equal(small.second.bias, plain.second.bias)
    torch.testing.assert_close(
        small.head.bias, model.head.bias + model.head.weight[:, ROWS] @ model.second.bias[ROWS].relu()
    )
    words = plan.explain(fold_constants=True)
    assert "first is not folded: second reads it and pads with zeros" in words
    assert "second: what its removed units carry is folded into biases" in words
    assert "folded" not in plan.explain()
    record = record_of(small)
    assert record is not None
    assert record.provenance["folded"] == ["second"]


def test_a_reader_with_nowhere_to_put_a_constant_leaves_its_group_unfolded() -> None:
    def forward(s: Net, x: Tensor) -> Tensor:
        return s.c(s.b(s.a(x).relu()).relu())

    model = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 6), c=nn.Linear(6, 3, bias=False))
    plan = planned(model, torch.randn(5, 4), a=GONE, b=GONE)
    assert plan.folding(model).folded == ("a",)
    assert "c reads it and has neither a bias nor a batch norm behind it" in plan.folding(model).left["b"]
    constant = model.a.bias[ROWS].relu()
    want = model.b.bias + model.b.weight[:, ROWS] @ constant
    torch.testing.assert_close(plan.apply(model, fold_constants=True).b.bias, want[~GONE])


def test_densenet_folds_behind_its_last_transition() -> None:
    """The 3x3 convolutions pad, and behind a transition comes neither a bias nor a batch norm of its own."""
    model = generic_(densenet_cifar(depth=16).eval())
    graph = trace(model, torch.randn(2, 3, 32, 32))
    plan = Plan.from_pruned(graph, removal(graph, 0.3, 0))
    folding = plan.folding(model)
    assert folding.folded == (
        "features.transition2.conv",
        "features.denseblock3.denselayer1.conv2",
        "features.denseblock3.denselayer2.conv2",
    )
    assert "transition1.conv reads it and has neither a bias nor a batch norm" in folding.left["features.conv0"]
    assert plan.prove(model, fold_constants=True)[0].passed


def test_a_linear_map_stored_transposed_is_folded() -> None:
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    model = Net(lambda s, x: s.b(s.a(x).relu()), a=conv1d(6, 4), b=conv1d(3, 6))
    small = planned(model, torch.randn(5, 4)).apply(model, fold_constants=True)
    torch.testing.assert_close(small.b.bias, model.b.bias + model.a.bias[ROWS].relu() @ model.b.weight[ROWS])


def reasons(model: nn.Module, x: Tensor) -> list[str]:
    """Why groups are not folded; what is applied is proved all the same."""
    plan = planned(model, x)
    assert plan.prove(model, fold_constants=True)[0].passed
    folding = plan.folding(model)
    assert folding.folded == ()
    return list(folding.left.values())


def test_what_is_not_constant_is_not_folded() -> None:
    parts = {"a": nn.Linear(4, 6), "b": nn.Linear(6, 3)}
    places = Net(lambda s, x: s.b(s.a(x).relu() + s.p), **parts, p=nn.Parameter(torch.randn(7, 6)))
    assert "depends on the input or the place" in reasons(places, torch.randn(5, 7, 4))[0]


def test_constants_that_reach_more_than_biases_are_not_folded() -> None:
    def forward(s: Net, x: Tensor) -> Tensor:
        y = s.a(x).relu()
        return s.b(y) + y.sum(-1, keepdim=True)

    model = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    assert "something else reads them too" in reasons(model, torch.randn(5, 4))[0]


def test_layers_that_run_twice_share_tensors_or_are_not_plain_are_not_folded() -> None:
    parts = {"a": nn.Linear(4, 6), "b": nn.Linear(6, 3)}
    twice = Net(lambda s, x: s.b(s.a(x).relu()) + s.b(s.a(x).tanh()), **parts)
    assert "runs more than once" in reasons(twice, torch.randn(5, 4))[0]
    tied = Net(lambda s, x: s.b(s.a(x).relu()) + s.c(s.a(x).tanh()), **parts, c=nn.Linear(6, 3))
    tied.c.weight = tied.b.weight
    assert "a reader shares its tensors" in reasons(tied, torch.randn(5, 4))[0]
    lent = Net(lambda s, x: s.b(s.a(x).relu()) + s.c(x), **parts, c=nn.Linear(4, 3))
    lent.c.bias = lent.b.bias
    assert "a reader shares its tensors" in reasons(lent, torch.randn(5, 4))[0]
    bare = Net(lambda s, x: s.a(x).relu() @ s.w, a=nn.Linear(4, 6), w=nn.Parameter(torch.randn(6, 3)))
    assert "no plain linear map" in reasons(bare, torch.randn(5, 4))[0]


def test_a_position_that_goes_for_two_reasons_is_folded_once() -> None:
    """Rows are three heads of four; a head goes, and a place in each head."""

    def forward(s: Net, x: Tensor) -> Tensor:
        y = s.a(x).view(-1, 3, 4) * s.heads.view(1, 3, 1) * s.places.view(1, 1, 4)
        return s.b(y.flatten(1).tanh())

    heads, places = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(4))
    model = generic_(Net(forward, a=nn.Linear(4, 12), b=nn.Linear(12, 3), heads=heads, places=places))
    graph = trace(model, torch.randn(5, 4))
    assert sorted(group.size for group in graph.groups) == [3, 4]
    plan = Plan.from_pruned(graph, {g.name: torch.arange(g.size) == 1 for g in graph.groups})
    assert set(plan.folding(model).folded) == set(plan.kept)
    small = plan.apply(model, fold_constants=True)
    flags = (torch.arange(3) == 1)[:, None] | (torch.arange(4) == 1)
    gone = flags.flatten().nonzero().flatten()
    constant = (model.a.bias * (heads[:, None] * places).flatten()).tanh()[gone]
    torch.testing.assert_close(small.b.bias, model.b.bias + model.b.weight[:, gone] @ constant)


@pytest.mark.parametrize("name", ["lenet5", "vit_cifar"])
def test_real_models_equal_the_half_masked_one_on_new_inputs(name: str) -> None:
    """Half-masked here by hand: the rows of removed units at zero, nothing else."""
    model, x = generic_(zoo.build(name)), zoo.example_input(name)
    graph = trace(model, x)
    plan = Plan.from_pruned(graph, removal(graph, 0.5, 0))
    assert plan.folding(model).left == {}
    half = copy.deepcopy(model)
    for group, kept in plan.kept.items():
        gone = torch.ones(graph[group].size, dtype=torch.bool)
        gone[kept] = False
        for member in graph[group].members:
            if member.role == "out" and member.param.endswith("weight"):
                half.get_parameter(member.param).data[member.index[gone].flatten()] = 0
    new = redrawn((x,), 3)
    assert_same(outputs(half, new), outputs(plan.apply(copy.deepcopy(model).double(), fold_constants=True), new))


@pytest.mark.parametrize("bias", [False, True])
def test_what_no_map_reads_is_not_said_to_be_folded(bias: bool) -> None:
    """Places within heads of queries and keys are summed over by the attention itself."""

    def forward(self: Any, x: Tensor) -> Tensor:
        q, k, v = (m(x).unflatten(-1, (2, 4)).transpose(1, 2) for m in (self.q, self.k, self.v))
        return self.o((q @ k.transpose(-2, -1) @ v).transpose(1, 2).flatten(2))

    maps = {name: nn.Linear(6, 8, bias=bias) for name in "qk"}
    model, x = Net(forward, **maps, v=nn.Linear(6, 8, bias=False), o=nn.Linear(8, 3)), torch.randn(2, 5, 6)
    places = next(
        g.name
        for g in trace(model, x).groups
        if {m.param for m in g.members} <= set(model.state_dict()) - {"v.weight", "o.weight"}
    )
    plan = planned(model, x, **{places: torch.arange(4) < 2})
    folding = plan.folding(model)
    assert folding.folded == ()
    line = f"  {places} is not folded: no map reads its removed units, so no bias takes up what they carry"
    assert str(folding) == line
    assert plan.explain(fold_constants=True).endswith(line)


def test_folding_is_closer_to_the_dense_model_than_zeroing() -> None:
    """Over ten random nets of 64 units, half of them removed: on average half the squared error or less."""
    plain, folded = 0.0, 0.0
    for seed in range(10):
        torch.manual_seed(seed)
        model, x = Net(lambda s, x: s.b(s.a(x).relu()), a=nn.Linear(16, 64), b=nn.Linear(64, 8)), torch.randn(256, 16)
        nn.init.normal_(model.a.bias, mean=0.5, std=0.5)
        graph = trace(model, x)
        plan = Plan.from_pruned(graph, removal(graph, 0.5, seed))
        plain += float((plan.apply(model)(x) - model(x)).square().mean().detach())
        folded += float((plan.apply(model, fold_constants=True)(x) - model(x)).square().mean().detach())
    assert folded < plain / 2


def test_in_one_call_in_place_saved_and_verified(tmp_path: Path) -> None:
    model, x = generic_(zoo.build("lenet5")), zoo.example_input("lenet5")
    small, report = oneshot.prune(model, x, ratio=0.5, fold_constants=True, measure_latency=False)
    assert report.proof is not None
    assert report.proof.passed
    again = load(save(small, tmp_path / "m.prunus"), lambda: zoo.build("lenet5"))
    torch.testing.assert_close(again(x), small(x), rtol=0, atol=0)
    verdict = verify(model, small, x)
    assert verdict.holds
    assert set(verdict.changed or ()) == {"conv2.bias", "fc1.bias", "fc2.bias"}
    report.plan.apply(model, inplace=True, fold_constants=True)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), small.state_dict().values(), strict=True))


def test_a_nan_in_any_output_is_a_difference() -> None:
    one, nan = torch.ones(2), torch.tensor([1.0, math.nan])
    assert math.isnan(distance([one, one], [one, nan])[1])
    assert distance([one], [torch.ones(3)]) == (math.inf, math.inf)
    assert distance([one, 4 * one], [one, 3 * one]) == (1.0, 0.25)
