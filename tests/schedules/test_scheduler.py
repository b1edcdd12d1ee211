"""The scheduler: when it prunes, how much, what it stops at, what it guards, and that it resumes exactly."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunus.axes import trace
from prunus.errors import InputError
from prunus.granularity import Piece
from prunus.plans import Plan
from prunus.schedules import (
    AGP,
    Iterative,
    OneShot,
    Policy,
    PruningScheduler,
)
from prunus.statistics import Statistics
from schedules.running import (
    count_zeros,
    make_coupled,
    make_data,
    make_scheduler,
    train_one_epoch,
)

STEPS = 3


def test_epoch_times_act_when_an_epoch_begins_with_exact_counts() -> None:
    policy = Policy(granularity="element", targets="0.weight", schedule=AGP(final=0.5, initial=0.1, end=2))
    model, optimizer, scheduler = make_scheduler(policy)
    weight = model[0].weight
    assert count_zeros(weight) == 20
    seen = []
    for epoch in range(4):
        train_one_epoch(model, optimizer, epoch)
        before = count_zeros(weight)
        status = scheduler.epoch_end()
        seen.append((before, count_zeros(weight), status.epoch, status.steps, len(status.events), status.finished))
    # .5 - .4/8 = .45 of 200 weights
    assert seen[:2] == [(20, 90, 1, 3, 2, False), (90, 100, 2, 6, 1, True)]
    assert seen[2:] == [(100, 100, 3, 9, 0, True), (100, 100, 4, 12, 0, True)]
    assert [event["units"] for event in scheduler.log] == [20, 90, 100]
    assert scheduler.sparsity == 100 / sum(p.numel() for p in model.parameters())


def test_step_times_act_once_that_many_steps_are_done() -> None:
    policy = Policy(granularity="element", schedule=Iterative(final=0.8, rounds=2, begin="2 steps", every="3 steps"))
    model, optimizer, scheduler = make_scheduler(policy)
    total = sum(m.weight.numel() for m in model if isinstance(m, nn.Linear))
    seen = []
    for epoch in range(3):
        for x, y in make_data((10,), epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            seen.append(sum(count_zeros(m.weight) for m in model if isinstance(m, nn.Linear)) / total)
        scheduler.epoch_end()
    assert seen == pytest.approx([0, 0.4, 0.4, 0.4, 0.8, 0.8, 0.8, 0.8, 0.8], abs=2e-3)
    assert [event["step"] for event in scheduler.log] == [2, 5]


def test_times_inside_an_epoch_need_its_length() -> None:
    policy = Policy(granularity="element", schedule=OneShot(0.5, begin="0.5ep"))
    with pytest.raises(InputError, match="inside an epoch"):
        make_scheduler(policy)
    model, optimizer, scheduler = make_scheduler(policy, steps_per_epoch=4)
    train_one_epoch(model, optimizer, 0)
    assert [event["step"] for event in scheduler.log] == [2]


def test_a_step_that_the_grad_scaler_skips_is_not_counted() -> None:
    model, optimizer, scheduler = make_scheduler(Policy(granularity="element", schedule=OneShot(0.5, begin="2 steps")))
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    for step, (x, y) in enumerate(make_data((10,), 0)):
        optimizer.zero_grad()
        scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
        if step == 1:
            model[0].bias.grad[0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
    assert scheduler.steps == 2
    assert len(scheduler.log) == 1


@pytest.mark.parametrize("allocation", ["uniform", {"per_layer": {"*": 0.8}}])
@pytest.mark.parametrize("granularity", ["element", "filter", "vector(2, dim=1)"])
@pytest.mark.parametrize("criterion", ["l1", "random"])
def test_pruning_in_steps_without_training_is_pruning_at_once(
    allocation: Any, granularity: str, criterion: str
) -> None:
    """What goes first is among what goes in the end."""
    common: dict[str, Any] = {"granularity": granularity, "criterion": criterion, "allocation": allocation}
    _, _, once = make_scheduler(Policy(**common, schedule=OneShot(0.8)))
    _, _, gradual = make_scheduler(Policy(**common, schedule=Iterative(final=0.8, rounds=5)))
    for _ in range(4):
        gradual.epoch_end()
    assert gradual.finished
    for name, mask in once.masks.masks.items():
        assert torch.equal(mask, gradual.masks.masks[name]), name


@pytest.mark.parametrize("criterion", ["l1", "random"])
def test_a_global_share_is_met_exactly_in_every_round(criterion: str) -> None:
    """Zeros move the means by which layers are compared, but never the total: pruned ones come first."""
    policy = Policy(
        granularity="element", criterion=criterion, allocation="global", schedule=Iterative(final=0.8, rounds=5)
    )
    model, _, scheduler = make_scheduler(policy)
    total = sum(m.weight.numel() for m in model if isinstance(m, nn.Linear))
    for number in range(1, 6):
        pruned = sum(int((~mask).sum()) for mask in scheduler.masks.masks.values())
        assert pruned == math.floor(0.8 * number / 5 * total + 0.5)
        scheduler.epoch_end()


@pytest.mark.parametrize("criterion", ["l1", "l2", "random"])
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_what_is_pruned_stays_pruned(criterion: str, allocation: str) -> None:
    policy = Policy(granularity="element", criterion=criterion, allocation=allocation, schedule=AGP(final=0.9, end=4))
    model, optimizer, scheduler = make_scheduler(policy)
    total = sum(m.weight.numel() for m in model if isinstance(m, nn.Linear))
    before: dict[str, Tensor] = {}
    for epoch in range(4):
        train_one_epoch(model, optimizer, epoch)
        scheduler.epoch_end()
        now = {name: mask.clone() for name, mask in scheduler.masks.masks.items()}
        assert all(not (now[name] & ~mask).any() for name, mask in before.items())
        pruned = sum(int((~mask).sum()) for mask in now.values())
        assert abs(pruned - total * AGP(final=0.9, end=4).fraction(epoch + 1)) <= len(now) / 2
        before = now


def test_several_policies_on_one_tensor_add_up() -> None:
    rows = Policy(granularity="filter", targets="0.weight", schedule=OneShot(0.5))
    single = Policy(granularity="element", criterion="random", targets="0.weight", schedule=OneShot(0.5))
    model, optimizer, scheduler = make_scheduler(rows, single)
    train_one_epoch(model, optimizer, 0)
    keep = scheduler.masks.masks["0.weight"]
    assert int((~keep).all(dim=1).sum()) >= 10
    assert int((~keep).sum()) > 100
    assert torch.equal(model[0].weight.detach() != 0, keep)
    assert scheduler.masks.sources == ("filter", "element")


def test_unnamed_policies_get_names_of_their_own_and_given_ones_must_differ() -> None:
    one = Policy(granularity="element", targets="0.weight", schedule=OneShot(0.5))
    two = Policy(granularity="element", targets="2.weight", schedule=OneShot(0.5))
    _, _, scheduler = make_scheduler(one, two)
    assert scheduler.masks.sources == ("element", "element#2")
    named = Policy(name="a", granularity="element", schedule=OneShot(0.5))
    with pytest.raises(InputError, match="two policies are named 'a'"):
        make_scheduler(named, named)


def test_two_four_prunes_every_group_at_once() -> None:
    policy = Policy(granularity="2:4", targets="2.weight", schedule=OneShot(begin=1))
    model, _, scheduler = make_scheduler(policy)
    assert count_zeros(model[2].weight) == 0
    scheduler.epoch_end()
    assert torch.equal((model[2].weight == 0).view(10, 5, 4).sum(-1), torch.full((10, 5), 2))


def test_per_layer_ratios_are_scaled_by_the_progress() -> None:
    policy = Policy(
        granularity="element",
        allocation={"per_layer": {"0.weight": 0.8, "2.weight": 0.4}},
        schedule=Iterative(rounds=2),
    )
    model, _, scheduler = make_scheduler(policy)
    assert (count_zeros(model[0].weight), count_zeros(model[2].weight), count_zeros(model[4].weight)) == (80, 40, 0)
    scheduler.epoch_end()
    assert (count_zeros(model[0].weight), count_zeros(model[2].weight), count_zeros(model[4].weight)) == (160, 80, 0)


def test_per_layer_ratios_are_met_at_the_end_whatever_the_final_fraction_is_called() -> None:
    policy = Policy(
        granularity="element", allocation={"per_layer": {"0.weight": 0.8}}, schedule=Iterative(final=0.5, rounds=2)
    )
    model, _, scheduler = make_scheduler(policy)
    assert count_zeros(model[0].weight) == 80
    scheduler.epoch_end()
    assert count_zeros(model[0].weight) == 160


def test_pruned_units_come_first_whatever_the_criterion_thinks_of_zeros() -> None:
    """A criterion that prunes the largest weights gives zeros its highest score; rounds must not start over."""

    class Largest:
        name, needs = "largest", frozenset[str]()

        def score(self, piece: Piece, statistics: Statistics) -> Tensor:
            return 1 / (piece.table().abs().sum(dim=1) + 1e-3)

    for allocation in ("uniform", "global"):
        schedule = Iterative(final=0.5, rounds=5)
        policy = Policy(granularity="element", criterion=Largest(), allocation=allocation, schedule=schedule)
        model, _, scheduler = make_scheduler(policy)
        total = sum(m.weight.numel() for m in model if isinstance(m, nn.Linear))
        for number in range(1, 6):
            pruned = sum(int((~mask).sum()) for mask in scheduler.masks.masks.values())
            assert pruned == total * number // 10
            scheduler.epoch_end()


def test_an_allocator_that_asks_for_less_later_frees_nothing() -> None:
    class Falling:
        name, uses_progress = "falling", False

        def counts(self, targets: Any, fraction: float) -> dict[str, int]:
            return dict.fromkeys(targets, 8 if fraction < 0.3 else 5)

    policy = Policy(granularity="filter", targets="0.weight", allocation=Falling(), schedule=Iterative(0.5, rounds=2))
    model, _, scheduler = make_scheduler(policy)
    scheduler.epoch_end()
    assert int((model[0].weight == 0).all(dim=1).sum()) == 8


def test_without_a_graph_filters_are_rows_of_weights_alone() -> None:
    model, _, scheduler = make_scheduler(Policy(granularity="filter", targets="0.weight", schedule=OneShot(0.5)))
    assert int((model[0].weight == 0).all(dim=1).sum()) == 10
    assert count_zeros(model[0].bias) == 0
    assert scheduler.pruned_units() == {}


def test_with_a_graph_filters_go_with_all_that_hangs_on_them_and_thinned_equals_masked() -> None:
    policy = Policy(granularity="filter", criterion="l2", schedule=AGP(final=0.5, end=2), round_to=4)
    model, optimizer, scheduler, graph = make_coupled(policy)
    for epoch in range(3):
        train_one_epoch(model, optimizer, epoch, (1, 8, 8))
        scheduler.epoch_end()
    units = scheduler.pruned_units()
    assert sorted(int(pruned.sum()) for pruned in units.values()) == [4, 8]
    train_one_epoch(model, optimizer, 9, (1, 8, 8))
    for group in graph.groups:
        gone = units[group.name]
        for member in group.members:
            tensor = dict(model.state_dict())[member.param]
            assert tensor.index_select(member.dim, member.index[gone].flatten()).abs().max() == 0, member
    small = Plan.from_pruned(graph, units).apply(model)
    x = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(small.eval()(x), model.eval()(x), rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in small.parameters()) < 0.5 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("schedule", [OneShot(0.5), AGP(final=0.5, end=3)])
def test_constants_are_folded_once_when_their_units_go(schedule: OneShot | AGP) -> None:
    """Without training in between a bias ends up in the next layer, b + W relu(a), however many steps it took."""
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 4))
    nn.init.normal_(model[0].bias)
    dense, graph = copy.deepcopy(model), trace(model, torch.randn(2, 10))
    policy = Policy(granularity="filter", schedule=schedule)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with PruningScheduler(model, optimizer, [policy], graph=graph, fold_constants=True) as scheduler:
        for _ in range(4):
            scheduler.epoch_end()
        gone = scheduler.pruned_units()["0"]
    assert int(gone.sum()) == 10
    want = dense[2].bias + dense[2].weight[:, gone] @ dense[0].bias[gone].relu()
    torch.testing.assert_close(model[2].bias, want)
    assert count_zeros(model[0].bias) == 10


def test_folding_needs_a_graph() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    policy = Policy(granularity="filter", schedule=OneShot(0.5))
    with pytest.raises(InputError, match=r"fold_constants needs .* give the graph"):
        PruningScheduler(model, torch.optim.SGD(model.parameters(), 0.1), [policy], fold_constants=True)
