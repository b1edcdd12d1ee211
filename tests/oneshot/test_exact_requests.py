"""What is asked is what is got: shares of each group to the unit, budgets to one percent and never over."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from axes.proving import Net
from oneshot.test_oneshot import measured
from prunus import zoo
from prunus.allocation import parse_budget
from prunus.axes import Graph, trace
from prunus.errors import NothingToPrune
from prunus.oneshot import plan

RATIOS = ("0.3", "0.5")
SMALL = ("lenet5", "resnet20", "vgg16_bn_cifar", "densenet_cifar", "vit_cifar", "gpt_tiny", "quickstart_net_digits")


def gated() -> nn.Module:
    """One map makes gate and value: each unit lies in both halves."""

    def forward(s: Net, x: Tensor) -> Tensor:
        gate, up = s.up(x).chunk(2, -1)
        return s.down(functional.silu(gate) * up)

    return Net(forward, up=nn.Linear(6, 30), down=nn.Linear(15, 4))


def halves() -> nn.Module:
    """One map makes two widths that different layers read: `chunk` cuts in the middle, so they stay equal."""

    def forward(s: Net, x: Tensor) -> Tensor:
        first, second = s.a(x).chunk(2, -1)
        return s.e(first) + s.f(second)

    return Net(forward, a=nn.Linear(6, 30), e=nn.Linear(15, 4), f=nn.Linear(15, 4))


def llama() -> nn.Module:
    """Grouped queries, rotary positions, gated feed-forward, RMSNorm."""
    import torchvision_ops  # noqa: F401 - has to come before torchvision, which transformers looks for

    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "vocab_size": 100}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 64}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, use_cache=False))


@cache
def traced(name: str) -> tuple[Graph, Tensor]:
    torch.manual_seed(0)
    if name in ("gated", "halves"):
        model, x = gated() if name == "gated" else halves(), torch.randn(2, 6)
    elif name == "llama":
        model, x = llama(), torch.randint(0, 100, (2, 8))
    else:
        model = zoo.build(name)
        x = torch.randn(2, 3, 32, 32) if name in ("resnet50", "mobilenet_v2") else zoo.example_input(name)
    return trace(model.eval(), x, inexact="compensate"), x


def kept(size: int, ratio: str, step: int) -> int:
    """What stays of a group: half up in what goes, then up to the next step, at least one."""
    left = max(1, size - math.floor(Fraction(ratio) * size + Fraction(1, 2)))
    return min(size, math.ceil(left / step) * step)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", [*SMALL, "gated", "halves", pytest.param("llama", marks=pytest.mark.slow)])
def test_a_ratio_is_met_to_the_unit_by_every_group(name: str, ratio: str) -> None:
    graph, _ = traced(name)
    assert graph.groups
    for step in (1, 4):
        sizes = plan(graph, ratio=float(ratio), round_to=step).sizes
        left = {group.name: sizes.get(group.name, group.size) for group in graph.groups}
        assert left == {group.name: kept(group.size, ratio, step) for group in graph.groups}
        for names in graph.equal:
            assert len({left[n] for n in names}) == 1


def test_both_halves_of_a_gated_map_lose_the_same_units() -> None:
    graph, _ = traced("gated")
    small = plan(graph, ratio=0.3).apply(graph.model)  # 4.5 of 15, rounded up
    assert (small.up.out_features, small.down.in_features) == (20, 10)


def test_widths_that_one_cut_makes_stay_equal() -> None:
    graph, _ = traced("halves")
    assert graph.equal == (("a", "a#2"),)
    assert plan(graph, ratio=0.3).sizes == {"a": 10, "a#2": 10}


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("name", ["resnet20", "vit_cifar", "resnet50", pytest.param("llama", marks=pytest.mark.slow)])
def test_a_budget_is_used_to_one_percent_and_never_exceeded(name: str, allocation: str) -> None:
    graph, x = traced(name)
    dense = measured(graph.model, x)
    for quantity in ("macs", "params", "bytes"):
        for share in (0.3, 0.5):
            made = plan(graph, target=f"{quantity}={share}", allocation=allocation)
            small = made.apply(graph.model, prove=False)
            assert 0.99 * share <= measured(small, x)[quantity] / dense[quantity] <= share, (quantity, share)
            for names in graph.equal:
                assert len({made.sizes.get(n, graph[n].size) for n in names}) == 1


def ragged() -> nn.Sequential:
    """Two layers that vectors of 32 and blocks of 5 x 7 cut into units of several sizes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(36, 36), nn.ReLU(), nn.Linear(36, 20)).double()


@pytest.mark.parametrize("allocation", ["uniform", "global", "lamp"])
@pytest.mark.parametrize("granularity", ["vector(32)", "vector(8)", "block(5,7)"])
def test_zeros_are_met_to_the_unit_also_where_units_differ_in_size(granularity: str, allocation: str) -> None:
    model = ragged()
    graph = trace(model, torch.randn(2, 36).double())
    largest = {"vector(32)": 32, "vector(8)": 8, "block(5,7)": 35}[granularity]
    params, weights = sum(p.numel() for p in model.parameters()), sum(m.weight.numel() for m in (model[0], model[2]))
    for target, wanted in (("sparsity=0.5", weights / 2), ("nnz=0.4", params * 0.6)):
        made = plan(graph, target=target, granularity=granularity, allocation=allocation)
        zeros = sum(int((~mask).sum()) for mask in made.masks.values())
        assert wanted <= zeros <= wanted + largest


def test_units_are_given_back_in_steps() -> None:
    graph, _ = traced("vit_cifar")
    for share in (0.3, 0.4, 0.5, 0.6):
        sizes = plan(graph, target=f"macs={share}", allocation="global", round_to=8).sizes
        assert all(left % 8 == 0 or left == graph[name].size for name, left in sizes.items())


def test_what_is_unused_of_a_budget() -> None:
    assert parse_budget("macs=0.5").unused(40, 100) == pytest.approx(0.2)
    assert parse_budget("params<=50").unused(60, 100) == pytest.approx(-0.2)
    assert parse_budget("sparsity=0.8").unused(0.9, 0.0) == pytest.approx(0.5)


@pytest.mark.parametrize("target", ["macs<=1e12", "energy<=1e9", "params=1", "sparsity=0"])
def test_a_budget_that_the_dense_model_meets_changes_nothing_and_says_so(target: str) -> None:
    graph, _ = traced("lenet5")
    with pytest.raises(NothingToPrune, match="is met by the dense model as it is; ask for less"):
        plan(graph, target=target)
