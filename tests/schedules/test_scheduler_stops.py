"""How pruning ends: stops, guards, resumption, refusals, thresholds."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from prunus.errors import InputError, NameNotFound, NothingToPrune, TrainingError
from prunus.schedules import (
    AGP,
    AccuracyGuard,
    Iterative,
    MagnitudeParameterPruner,
    OneShot,
    Policy,
    PruningScheduler,
    StopAtBudget,
    StopAtSparsity,
)
from schedules.running import (
    count_zeros,
    make_coupled,
    make_mlp,
    make_scheduler,
    make_sgd,
    train_one_epoch,
)

STEPS = 3


def test_stop_at_a_sparsity_ends_all_pruning() -> None:
    policy = Policy(granularity="element", schedule=Iterative(final=0.9, rounds=9))
    _, _, scheduler = make_scheduler(policy, stop=[StopAtSparsity(0.35)])
    statuses = [scheduler.epoch_end() for _ in range(6)]
    assert [status.finished for status in statuses] == [False, False, True, True, True, True]
    assert 0.35 <= scheduler.sparsity < 0.45
    assert scheduler.log[-1]["event"] == "stopped"
    assert "has reached 0.35" in str(statuses[-1].reason)
    assert statuses[-1].sparsity == statuses[2].sparsity


def test_stop_at_a_compute_budget_counts_what_thinning_leaves() -> None:
    policy = Policy(granularity="filter", schedule=Iterative(final=0.875, rounds=7))
    _, _, scheduler, graph = make_coupled(policy, stop=[StopAtBudget("macs=0.3")])
    while not scheduler.finished:
        scheduler.epoch_end()
    left = graph.size({name: int((~units).sum()) for name, units in scheduler.pruned_units().items()})
    share = left.macs / graph.size().macs
    assert 0.1 < share <= 0.3
    assert scheduler.log[-2]["fraction"] < 0.875
    assert "macs=0.3" in scheduler.log[-1]["reason"]


def test_budgets_of_structure_need_a_graph_and_those_of_zeros_do_not() -> None:
    policy = Policy(granularity="element", schedule=Iterative(final=0.8, rounds=4))
    with pytest.raises(InputError, match=r"stop at macs needs .* graph="):
        make_scheduler(policy, stop=[StopAtBudget("macs=0.5")])
    model, _, scheduler = make_scheduler(policy, stop=[StopAtBudget("nnz=0.7")])
    while not scheduler.finished:
        scheduler.epoch_end()
    nonzero = sum(int(p.count_nonzero()) for p in model.parameters())
    assert 0.5 < nonzero / sum(p.numel() for p in model.parameters()) <= 0.7


def _run(
    scheduler: PruningScheduler,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    metrics: list[float],
    start: int = 0,
) -> None:
    for epoch in range(start, len(metrics)):
        train_one_epoch(model, optimizer, epoch)
        scheduler.epoch_end({"top1": metrics[epoch]})


GRADUAL = Policy(granularity="element", criterion="l1", allocation="global", schedule=AGP(final=0.9, end=4, begin=1))


@pytest.mark.parametrize(("mode", "metrics"), [("max", [0.9, 0.95, 0.89, 0.5]), ("min", [0.9, 0.8, 0.91, 1.2])])
def test_the_guard_goes_back_to_the_last_good_state_bit_for_bit(mode: Any, metrics: list[float]) -> None:
    guard = AccuracyGuard("top1", max_drop=0.02, mode=mode)
    model, optimizer, scheduler = make_scheduler(GRADUAL, guard=guard)
    _run(scheduler, model, optimizer, metrics[:2])
    train_one_epoch(model, optimizer, 2)
    good = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"], dict(scheduler.masks.masks)))
    scheduler.epoch_end({"top1": metrics[2]})
    train_one_epoch(model, optimizer, 3)
    status = scheduler.epoch_end({"top1": metrics[3]})
    assert all(torch.equal(value, good[0][name]) for name, value in model.state_dict().items())
    momenta = [(s["momentum_buffer"], g["momentum_buffer"]) for s, g in
               zip(optimizer.state_dict()["state"].values(), good[1].values(), strict=True)]  # fmt: skip
    assert all(torch.equal(a, b) for a, b in momenta)
    assert all(torch.equal(mask, good[2][name]) for name, mask in scheduler.masks.masks.items())
    assert status.finished
    assert scheduler.log[-1]["state"] == "epoch 3"
    assert "top1" in str(status.reason)
    train_one_epoch(model, optimizer, 4)
    assert scheduler.epoch_end({"top1": 0.0}).sparsity == status.sparsity
    assert all(torch.count_nonzero(model.state_dict()[n][~m]) == 0 for n, m in good[2].items())


def test_the_guard_brings_back_the_pruned_units_too() -> None:
    policy = Policy(granularity="filter", schedule=Iterative(final=0.75, rounds=3))
    model, _, scheduler, _ = make_coupled(policy, guard=AccuracyGuard("top1", 0.05, reference=0.9))
    good = scheduler.pruned_units()
    scheduler.epoch_end({"top1": 0.9})
    assert any(not torch.equal(units, good[name]) for name, units in scheduler.pruned_units().items())
    scheduler.epoch_end({"top1": 0.1})
    assert all(torch.equal(units, good[name]) for name, units in scheduler.pruned_units().items())
    assert int((model[0].weight == 0).flatten(1).all(dim=1).sum()) == 2


def test_the_guard_keeps_the_present_learning_rate_when_it_goes_back() -> None:
    model, optimizer, scheduler = make_scheduler(GRADUAL, guard=AccuracyGuard("top1", 0.1))
    _run(scheduler, model, optimizer, [0.9])
    optimizer.param_groups[0]["lr"] = 0.007
    _run(scheduler, model, optimizer, [0.9, 0.1], start=1)
    assert optimizer.param_groups[0]["lr"] == 0.007
    assert scheduler.log[-1]["event"] == "restored"


def test_a_guard_that_restores_the_dense_model_leaves_it_dense() -> None:
    policy = Policy(granularity="element", schedule=OneShot(0.5))
    model, optimizer, scheduler = make_scheduler(policy, guard=AccuracyGuard("top1", 0.01, reference=0.9))
    dense = make_mlp().state_dict()
    train_one_epoch(model, optimizer, 0)
    scheduler.epoch_end({"top1": 0.5})
    assert all(torch.equal(value, dense[name]) for name, value in model.state_dict().items())
    assert scheduler.sparsity == 0
    assert scheduler.log[-1]["state"] == "before pruning"
    scheduler.close()


def test_a_guard_needs_something_to_compare_with() -> None:
    guard = AccuracyGuard("top1", 0.02)
    at_once = Policy(granularity="element", schedule=OneShot(0.5))
    in_steps = Policy(granularity="element", schedule=OneShot(0.5, begin="3 steps"))
    for policy in (at_once, in_steps):
        with pytest.raises(InputError, match=r"guard.reference"):
            make_scheduler(policy, guard=guard)
    with pytest.raises(InputError, match=r"guard.reference"):
        make_scheduler(in_steps, guard=guard, steps_per_epoch=3)
    make_scheduler(in_steps, guard=guard, steps_per_epoch=2)
    _, _, scheduler = make_scheduler(GRADUAL, guard=guard)
    with pytest.raises(InputError, match="the guard needs the metric 'top1'"):
        scheduler.epoch_end()
    with pytest.raises(NameNotFound, match="did you mean top5"):
        scheduler.epoch_end({"top5": 0.5})


def test_metrics_that_are_nan_or_no_numbers_stop_the_run_by_name() -> None:
    _, _, scheduler = make_scheduler(GRADUAL)
    with pytest.raises(TrainingError, match="metric loss is nan after epoch 1"):
        scheduler.epoch_end({"top1": 0.5, "loss": float("nan")})
    with pytest.raises(InputError, match="metric top1 is 'good'"):
        scheduler.epoch_end({"top1": "good"})  # type: ignore[dict-item]
    assert scheduler.epoch == 0


def test_nan_weights_are_named() -> None:
    model, _, scheduler = make_scheduler(GRADUAL)
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    scheduler.epoch_end()
    with pytest.raises(TrainingError, match=r"2.weight holds nan weights"):
        scheduler.epoch_end()


def _adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.05)


def _make(make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]) -> tuple[Any, Any, PruningScheduler]:
    model = make_mlp()
    optimizer = make_optimizer(model)
    policies = [
        GRADUAL,
        Policy(granularity="filter", targets="0.weight", criterion="random",
               schedule=Iterative(final=0.4, rounds=3, begin="2 steps", every="4 steps")),
    ]  # fmt: skip
    guard = AccuracyGuard("top1", 0.05, reference=0.9)
    return model, optimizer, PruningScheduler(model, optimizer, policies, guard=guard, stop=[StopAtSparsity(0.85)])


@pytest.mark.parametrize("make_optimizer", [make_sgd, _adamw])
@pytest.mark.parametrize("killed_after", [1, 2, 3, 4])
@pytest.mark.parametrize("metrics", [[0.9, 0.9, 0.9, 0.9, 0.9], [0.9, 0.92, 0.9, 0.2, 0.9]])
def test_a_run_that_is_killed_between_epochs_ends_like_one_that_is_not(
    make_optimizer: Any, killed_after: int, metrics: list[float]
) -> None:
    whole = _make(make_optimizer)
    _run(whole[2], whole[0], whole[1], metrics)
    first = _make(make_optimizer)
    _run(first[2], first[0], first[1], metrics[:killed_after])
    file = io.BytesIO()
    torch.save([first[0].state_dict(), first[1].state_dict(), first[2].state_dict()], file)
    file.seek(0)
    resumed = _make(make_optimizer)
    for part, state in zip(resumed, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    _run(resumed[2], resumed[0], resumed[1], metrics, start=killed_after)
    for name, value in whole[0].state_dict().items():
        assert torch.equal(value, resumed[0].state_dict()[name]), name
    for mine, others in zip(
        whole[1].state_dict()["state"].values(), resumed[1].state_dict()["state"].values(), strict=True
    ):
        assert all(torch.equal(torch.as_tensor(mine[key]), torch.as_tensor(others[key])) for key in mine)
    assert resumed[2].log == whole[2].log
    assert all(torch.equal(m, resumed[2].masks.masks[n]) for n, m in whole[2].masks.masks.items())
    assert resumed[2].finished == whole[2].finished


def test_a_state_of_other_policies_or_of_junk_is_refused_and_changes_nothing() -> None:
    model, optimizer, scheduler = make_scheduler(GRADUAL)
    _run(scheduler, model, optimizer, [0.9, 0.9, 0.9])
    state = scheduler.state_dict()
    _, _, other = make_scheduler(Policy(granularity="filter", schedule=OneShot(0.5)))
    before = other.state_dict()
    with pytest.raises(InputError, match="does not fit policy 'filter'"):
        other.load_state_dict(state)
    with pytest.raises(InputError, match="not a scheduler's state of version 1"):
        other.load_state_dict({"epoch": 3})
    assert str(other.state_dict()) == str(before)


def test_policies_that_match_nothing_and_none_at_all_are_refused() -> None:
    with pytest.raises(NameNotFound, match=r"0.wieght"):
        make_scheduler(Policy(granularity="element", targets="0.wieght", schedule=OneShot(0.5)))
    with pytest.raises(InputError, match="there are no policies"):
        make_scheduler()
    with pytest.raises(InputError, match="is no policy"):
        make_scheduler("filter")  # type: ignore[arg-type]


def test_a_schedule_that_prunes_nothing_says_why_when_it_is_closed() -> None:
    rounded = Policy(name="rounded", granularity="filter", targets="4.weight", schedule=OneShot(0.2), round_to=4)
    with pytest.raises(NothingToPrune, match=r"policy 'rounded' at 0.2 of 4 units in 1 targets comes to none"):
        make_scheduler(rounded)[2].close()
    late = Policy(name="late", granularity="element", schedule=OneShot(0.5, begin=7))
    model = make_mlp()
    with (
        pytest.raises(NothingToPrune, match="policy 'late' has not begun"),
        PruningScheduler(model, make_sgd(model), [late]) as scheduler,
    ):
        scheduler.epoch_end()


def test_closing_never_hides_another_error_and_frees_the_weights() -> None:
    late = Policy(granularity="element", schedule=OneShot(0.5, begin=7))
    model = make_mlp()
    with pytest.raises(KeyboardInterrupt), PruningScheduler(model, make_sgd(model), [late]):
        raise KeyboardInterrupt
    scheduler = PruningScheduler(model, make_sgd(model), [late])

    def interrupted() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            scheduler.close()

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    optimizer = make_sgd(model)
    with PruningScheduler(model, optimizer, [Policy(granularity="element", schedule=OneShot(0.5))]) as again:
        train_one_epoch(model, optimizer, 0)
        assert count_zeros(model[0].weight) == 100
    assert not optimizer._optimizer_step_post_hooks
    train_one_epoch(model, optimizer, 1)
    assert count_zeros(model[0].weight) < 100
    assert again.steps == STEPS


def test_thresholds_zero_every_weight_at_or_below_them() -> None:
    model = make_mlp()
    with torch.no_grad():
        model[4].weight[0, :3] = torch.tensor([0.1, -0.1, 0.10001])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masks = MagnitudeParameterPruner({"4.weight": 0.1, "*": 0.05, "0.bias": 0.2}).prune_(model)
    thresholds = {"0.weight": 0.05, "2.weight": 0.05, "4.weight": 0.1, "0.bias": 0.2}
    for name, value in before.items():
        small = value.abs() <= thresholds[name] if name in thresholds else torch.zeros_like(value, dtype=torch.bool)
        assert torch.equal(model.state_dict()[name], value.masked_fill(small, 0)), name
    assert set(masks.masks) == set(thresholds)
    assert (model[4].weight[0, :3] == 0).tolist() == [True, True, False]


def test_thresholds_serve_as_a_policy_and_keep_what_they_found() -> None:
    model = make_mlp()
    optimizer = make_sgd(model)
    wanted = MagnitudeParameterPruner(0.1)
    reference = wanted.prune_(make_mlp())
    scheduler = PruningScheduler(model, optimizer, [wanted])
    train_one_epoch(model, optimizer, 0)
    scheduler.epoch_end()
    assert all(torch.equal(mask, reference.masks[name]) for name, mask in scheduler.masks.masks.items())
    assert scheduler.finished


def test_wrong_thresholds_are_refused() -> None:
    with pytest.raises(InputError, match="threshold of a is -1"):
        MagnitudeParameterPruner({"a": -1})
    with pytest.raises(NameNotFound, match=r"6.weight"):
        MagnitudeParameterPruner({"6.weight": 0.1}).prune_(make_mlp())
    with pytest.raises(NothingToPrune, match="no weight is at or below"):
        MagnitudeParameterPruner(0.0).prune_(make_mlp())
