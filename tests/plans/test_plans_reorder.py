"""Units in another order: the same function, the same parameters, and a reason where the order is fixed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from axes.proving import Net, conv, generic_, images, outputs
from prunus import zoo
from prunus.axes import Graph, trace
from prunus.errors import InputError, NameNotFound, ProofError
from prunus.plans import fixed_order, reorder_


def shuffled(graph: Graph) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    free = [group for group in graph.groups if fixed_order(graph, group.name) is None]
    return {group.name: torch.randperm(group.size, generator=generator) for group in free}


def mlp() -> nn.Module:
    return generic_(Net(lambda s, x: s.b(s.a(x).relu()), a=nn.Linear(4, 6), b=nn.Linear(6, 3)))


def test_rows_and_columns_move_together() -> None:
    model = mlp()
    before, order = copy.deepcopy(model), torch.tensor([3, 1, 5, 0, 2, 4])
    weight = model.a.weight
    weight.grad = weight.detach().clone()
    proof = reorder_(model, trace(model, torch.randn(2, 4)), {"a": order})
    assert proof.passed
    assert model.a.weight is weight
    assert torch.equal(model.a.weight, before.a.weight[order])
    assert torch.equal(model.a.weight.grad, model.a.weight)
    assert torch.equal(model.a.bias, before.a.bias[order])
    assert torch.equal(model.b.weight, before.b.weight[:, order])
    assert torch.equal(model.b.bias, before.b.bias)


@pytest.mark.parametrize("name", ["resnet20", "densenet_cifar", "mobilenet_v2", "lenet_300_100", "vit_tiny"])
def test_models_of_the_zoo_compute_the_same_with_every_free_group_shuffled(name: str) -> None:
    small = {"resnet20": {"width": 4}, "densenet_cifar": {"depth": 16, "growth": 4}, "mobilenet_v2": {"width": 0.25}}
    model = generic_(zoo.build(name, **small.get(name, {}))).double().eval()
    x = zoo.example_input(name, batch=2).double()
    graph = trace(model, x, inexact="allow")
    orders, want = shuffled(graph), outputs(model, (x,))
    before = copy.deepcopy(model.state_dict())
    reorder_(model, graph, orders)
    assert len(orders) >= 2
    assert any(not torch.equal(before[key], value) for key, value in model.state_dict().items())
    for a, b in zip(want, outputs(model, (x,)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_heads_and_units_of_several_positions_keep_their_order() -> None:
    graph = trace(zoo.vit_tiny().eval(), zoo.example_input("vit_tiny", batch=2))
    heads = next(group.name for group in graph.groups if group.kind == "head")
    assert fixed_order(graph, heads) == "its units are heads, no single channels"
    flat = Net(lambda s, x: s.b(s.a(x).flatten(1)), a=conv(3, 6), b=nn.Linear(6 * 64, 3))
    assert fixed_order(trace(flat, images(3, 8)), "a") == "a unit is 64 positions of b.weight dim 1"
    grouped = Net(lambda s, x: s.b(s.a(x)), a=conv(3, 6), b=nn.Conv2d(6, 4, 1, groups=2))
    graph = trace(grouped, images(3, 8))
    assert "a unit is 2 positions of a.weight dim 0" in [fixed_order(graph, group.name) for group in graph.groups]


def test_rows_divided_by_their_norm_keep_their_order() -> None:
    model = Net(lambda s, x: s.b(s.a(x).relu()), a=weight_norm(nn.Linear(4, 6)), b=nn.Linear(6, 3))
    assert "divided by their own norm" in str(fixed_order(trace(model, torch.randn(2, 4)), "a"))


def test_frozen_and_unknown_names_are_told_apart() -> None:
    model = mlp()
    graph = trace(model, torch.randn(2, 4))
    with pytest.raises(InputError, match=r"^b cannot be reordered: b.weight dim 0 is frozen, .*output"):
        reorder_(model, graph, {"b": torch.arange(3)})
    with pytest.raises(NameNotFound, match="did you mean a"):
        reorder_(model, graph, {"aa": torch.arange(6)})


@pytest.mark.parametrize("order", [torch.arange(5), torch.zeros(6, dtype=torch.int64), torch.arange(6.0)])
def test_what_is_no_permutation_is_refused(order: Tensor) -> None:
    model = mlp()
    with pytest.raises(InputError, match=r"each of 0\.\.5 once"):
        reorder_(model, trace(model, torch.randn(2, 4)), {"a": order})


def test_a_model_that_reads_the_order_fails_the_proof_and_is_left_alone() -> None:
    graph = trace(mlp(), torch.randn(2, 4))
    model = generic_(Net(lambda s, x: s.b(s.a(x) * torch.arange(6)), a=nn.Linear(4, 6), b=nn.Linear(6, 3)))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ProofError, match=r"^a cannot be reordered: .*differ"):
        reorder_(model, graph, {"a": torch.tensor([3, 1, 5, 0, 2, 4])})
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
