"""Policies with every allocation: their totals under a schedule, ceilings, and steps of kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from prunus.allocation import num_pruned
from prunus.axes import trace
from prunus.costs import energy_of_structure
from prunus.errors import InputError
from prunus.schedules import AGP, OneShot, Policy, PruningScheduler, StopAtBudget
from schedules.running import make_scheduler

SHARED: list[Any] = ["erdos_renyi_kernel", "erdos_renyi", "lamp", "owl", {"linear": {"first": 0.4, "last": 0.8}}]


@pytest.mark.parametrize("allocation", SHARED, ids=str)
def test_a_schedule_reaches_its_fraction_and_brings_nothing_back(allocation: Any) -> None:
    policy = Policy(granularity="element", allocation=allocation, schedule=AGP(final=0.8, end=3))
    model, _, scheduler = make_scheduler(policy)
    before: dict[str, torch.Tensor] = {}
    for _ in range(4):
        scheduler.epoch_end()
        masks = {name: mask.clone() for name, mask in scheduler.masks.masks.items()}
        assert all(not (masks[name] & ~mask).any() for name, mask in before.items())
        before = masks
    total = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1)
    assert sum(int((~mask).sum()) for mask in before.values()) == num_pruned(0.8, total)


def conv_net() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 64, 3), nn.ReLU(), nn.Conv2d(64, 20, 3), nn.ReLU(), nn.Conv2d(20, 4, 3))
    return model, trace(model.eval(), torch.randn(1, 1, 9, 9))


def pruned(policy: Policy, **options: Any) -> dict[str, int]:
    model, graph = conv_net()
    with PruningScheduler(model, torch.optim.SGD(model.parameters(), 0.1), [policy], graph=graph, **options) as running:
        for _ in range(4):
            running.epoch_end()
        return {name: int(units.sum()) for name, units in running.pruned_units().items()}


def test_kept_counts_are_at_the_steps_of_kernels() -> None:
    policy = Policy(granularity="filter", schedule=OneShot(0.3), round_to="auto")
    assert pruned(policy) == {"0": 16, "2": 4}  # 45 of 64 stay, then 48; 14 of 20, then 16


def test_a_ceiling_holds_for_a_policy() -> None:
    policy = Policy(granularity="filter", schedule=OneShot(0.6), max_ratio=0.25)
    assert pruned(policy) == {"0": 16, "2": 5}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"round_to": "automatic"}, "round_to is 'automatic'; a whole number or auto"),
        ({"round_to": "auto", "granularity": "element"}, "element is not rounded"),
        ({"max_ratio": 1.5}, "max_ratio is 1.5"),
    ],
)
def test_wrong_bounds_are_named(words: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Policy(**{"granularity": "filter", "schedule": OneShot(0.5), **words})


def test_pruning_stops_at_an_energy() -> None:
    _, graph = conv_net()
    policy = Policy(granularity="filter", schedule=AGP(final=0.9, end=4))
    left = {name: graph[name].size - gone for name, gone in pruned(policy, stop=[StopAtBudget("energy=0.5")]).items()}
    assert energy_of_structure(graph, left) <= 0.5 * energy_of_structure(graph)
    assert left["0"] > 7  # 0.9 of all was not reached
