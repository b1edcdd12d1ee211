"""Distiller's faults, one test each, that pass here."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distiller.nets import made, make_convnet, make_linear, missing, run, traced
from prunus.axes import Graph
from prunus.distiller import Window
from prunus.plans import Plan
from prunus.schedules import PruningScheduler

HALF = {"group_type": "Filters", "weights": "module.0.weight", "desired_sparsity": 0.5}


def num_zeros(tensor: Tensor) -> int:
    return int((tensor == 0).sum())


@pytest.mark.parametrize("level", [0.3, 0.01, 0.99])
def test_ties_do_not_over_prune(level: float) -> None:
    """There, every weight at the threshold goes: 30 % of equal weights prunes all of them."""
    model = nn.Sequential(nn.Linear(10, 10, bias=False))
    nn.init.ones_(model[0].weight)
    run(model, made("SparsityLevelParameterPruner", model, levels={"0.weight": level}))
    assert num_zeros(model[0].weight) == round(level * 100)


def test_ties_of_filters_do_not_over_prune() -> None:
    model = make_convnet()
    nn.init.ones_(model[0].weight)
    run(model, made("L1RankedStructureParameterPruner", model, **HALF))
    assert num_zeros(model[0].weight.sum((1, 2, 3))) == 4


def test_levels_under_one_element_prune_nothing_and_raise_nothing() -> None:
    """There, topk of nothing has no last element: IndexError."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 200, bias=False))
    run(model, made("SparsityLevelParameterPruner", model, levels={"*": 0.1}))
    assert [num_zeros(layer.weight) for layer in model] == [0, 40]
    ramp = {"weights": ["0.weight", "1.weight"], "initial_sparsity": 0.0, "final_sparsity": 0.1}
    run(model, made("AutomatedGradualPruner", model, Window(ending_epoch=3), **ramp), epochs=3)


@pytest.mark.skipif(**missing("mean_activation"))
def test_mean_activation_prunes_the_least_active() -> None:
    """There, the list is sorted upwards and its end is dropped, which is the most active."""
    model = make_convnet()
    model[0].weight.data.zero_()
    model[0].bias.data = torch.tensor([5.0, 1.0, 6.0, 2.0, 7.0, 3.0, 8.0, 4.0])
    scheduler = run(
        model.eval(), made("ActivationMeanRankedFilterPruner", model, **HALF), graph=traced(model),
        data=[torch.randn(4, 1, 8, 8)],
    )  # fmt: skip
    (pruned,) = scheduler.pruned_units().values()
    assert pruned.nonzero().flatten().tolist() == [1, 3, 5, 7]


@pytest.mark.skipif(**missing("apoz"))
def test_apoz_prunes_those_that_are_most_often_zero() -> None:
    model = make_convnet()
    model[0].weight.data.zero_()
    model[0].bias.data = torch.tensor([1.0, -9, 1, -9, 1, -9, 1, -9])
    scheduler = run(
        model.eval(), made("ActivationAPoZRankedFilterPruner", model, **HALF), graph=traced(model),
        data=[torch.randn(4, 1, 8, 8)],
    )  # fmt: skip
    (pruned,) = scheduler.pruned_units().values()
    assert pruned.nonzero().flatten().tolist() == [1, 3, 5, 7]


def test_gradients_rank_by_size_not_by_signed_sums() -> None:
    """There, Σ g·w is sorted with its sign: the filter that raises the loss most counts least."""

    class Weighed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 1, bias=False)
            self.fc = nn.Linear(4, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(x).mean((2, 3)))

    model = Weighed()
    model.conv.weight.data.fill_(1)
    model.fc.weight.data = torch.tensor([[-9.0, -1.0, 2.0, 8.0]])  # = g·w of each filter, for an input of ones
    x, y = torch.ones(2, 1, 3, 3), torch.zeros(2)
    options = {"group_type": "Filters", "weights": "conv.weight", "desired_sparsity": 0.5}
    run(model, made("GradientRankedFilterPruner", model, **options), data=[(x, y)], loss=lambda out, _: out.mean())
    assert model.conv.weight.flatten().tolist() == [1, 0, 0, 1]


def test_the_std_of_sensitivity_survives_a_resume() -> None:
    """There, it hangs on the tensor and is measured anew, on pruned weights, after a checkpoint."""

    def start() -> tuple[nn.Sequential, torch.optim.Optimizer, PruningScheduler]:
        model = make_linear([[1.0, -2.0, 3.0, -4.0, 5.0, 6.0]])
        optimizer = torch.optim.SGD(model.parameters(), 1.0)
        policies = made("SensitivityPruner", model, Window(ending_epoch=9), sensitivities={"module.0.weight": 0.6})
        return model, optimizer, PruningScheduler(model, optimizer, policies)

    def epoch(model: nn.Sequential, optimizer: torch.optim.Optimizer, scheduler: PruningScheduler) -> None:
        model[0].weight.grad = torch.tensor([[0.0, 0.0, 0.35, -0.8, 1.0, 3.0]])
        optimizer.step()
        scheduler.epoch_end()

    one = start()
    epoch(*one)
    saved = copy.deepcopy([part.state_dict() for part in one])
    epoch(*one)
    two = start()
    for part, state in zip(two, saved, strict=True):
        part.load_state_dict(state)
    epoch(*two)
    # .6 · std = .6 · 3.937 = 2.362; measured anew after one epoch it would be about 1.7
    assert one[0][0].weight[0].tolist() == pytest.approx([0, 0, 0, -2.4, 3, 0])
    assert torch.equal(one[0][0].weight, two[0][0].weight)


def pruned_half(model: nn.Sequential, graph: Graph) -> PruningScheduler:
    return run(model, made("L1RankedStructureParameterPruner", model, graph=graph, **HALF), graph=graph)


def test_bias_and_shift_of_pruned_filters_go_with_them() -> None:
    """There, both stay alive, so that thinning changes the function."""
    model = make_convnet().eval()
    graph = traced(model)
    scheduler = pruned_half(model, graph)
    (pruned,) = scheduler.pruned_units().values()
    for vector in (model[0].bias, model[1].weight, model[1].bias):
        assert (vector == 0).tolist() == pruned.tolist()
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    thinned = Plan.from_pruned(graph, scheduler.pruned_units()).apply(model)
    torch.testing.assert_close(thinned.double()(x), copy.deepcopy(model).double()(x))


def test_maps_before_a_linear_layer_need_not_be_square() -> None:
    """There, the number of columns per channel is a square root."""
    model = make_convnet(6, 10).eval()
    graph = traced(model, 6, 10)
    options = {**HALF, "weights": "3.weight"}
    policies = made("L1RankedStructureParameterPruner", model, graph=graph, **options)
    scheduler = run(model, policies, graph=graph)
    thinned = Plan.from_pruned(graph, scheduler.pruned_units()).apply(model)
    assert thinned[6].weight.shape == (4, 4 * 60)
    x = torch.randn(3, 1, 6, 10, dtype=torch.float64)
    torch.testing.assert_close(thinned.double()(x), copy.deepcopy(model).double()(x))


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.SGD])
def test_the_state_of_any_optimizer_is_thinned(kind: Any) -> None:
    """There, only SGD's momentum is."""
    model = make_convnet()
    graph = traced(model)
    optimizer = kind(model.parameters(), 0.01, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))
    with PruningScheduler(
        model, optimizer, made("L1RankedStructureParameterPruner", model, **HALF), graph=graph
    ) as scheduler:
        model(torch.randn(2, 1, 8, 8)).square().sum().backward()
        optimizer.step()
        before = {key: value.clone() for key, value in optimizer.state[model[0].weight].items() if value.dim()}
        (pruned,) = scheduler.pruned_units().values()
    assert before
    Plan.from_pruned(graph, scheduler.pruned_units()).apply(model, inplace=True, optimizer=optimizer)
    for parameter in model.parameters():
        for value in optimizer.state[parameter].values():
            assert not value.dim() or value.shape == parameter.shape
    for key, value in before.items():
        assert torch.equal(optimizer.state[model[0].weight][key], value[~pruned])
    model(torch.randn(2, 1, 8, 8)).sum().backward()
    optimizer.step()


def test_two_policies_on_one_tensor_add_up() -> None:
    """There, the later one overwrites the mask of the earlier."""
    model = make_linear([[0.1, 2.0, 3.0], [4.0, 0.2, 6.0]])
    by_size = made("MagnitudeParameterPruner", model, thresholds={"0.weight": 0.5})
    by_column = made(
        "L1RankedStructureParameterPruner", model, group_type="Rows", weights="0.weight", desired_sparsity=0.34
    )
    run(model, [*by_size, *by_column])
    assert model[0].weight.tolist() == [[0, 0, 3], [4, 0, 6]]


def test_agp_over_one_epoch_is_legal() -> None:
    """There, the span is 0: an assertion fails."""
    model = make_linear([[1.0, 2.0, 3.0, 4.0]])
    ramp = {"weights": "0.weight", "initial_sparsity": 0.0, "final_sparsity": 0.5}
    run(model, made("AutomatedGradualPruner", model, Window(starting_epoch=0, ending_epoch=1), **ramp))
    assert num_zeros(model[0].weight) == 2


def test_agp_takes_a_list_of_epochs() -> None:
    """There, such a policy has no end: TypeError. Here the ramp goes from the first to the last of them."""
    model = nn.Sequential(nn.Linear(100, 1, bias=False))
    ramp = {"weights": "0.weight", "initial_sparsity": 0.1, "final_sparsity": 0.5}
    policies = made("AutomatedGradualPruner", model, Window(epochs=[0, 1, 4]), **ramp)
    scheduler = run(model, policies)
    seen = [num_zeros(model[0].weight)]
    for _ in range(5):
        scheduler.epoch_end()
        seen.append(num_zeros(model[0].weight))
    # .5 - .4 · (1 - 1/4)³ = .33125
    assert seen == [10, 33, 33, 33, 50, 50]
    (alone,) = made("AutomatedGradualPruner", model, Window(epochs=[3]), **ramp)
    assert [alone.schedule.fraction(epoch) for epoch in (2, 3)] == [0, 0.5]
