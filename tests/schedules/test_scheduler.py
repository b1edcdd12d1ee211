"""The scheduler: when it prunes, how much, what it stops at, what it guards, and that it resumes exactly."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunus.axes import trace
from prunus.errors import InputError, NameNotFound, NothingToPrune, TrainingError
from prunus.plans import Plan
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

STEPS = 3


def _mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 4))


def _convnet() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)


def _data(shape: tuple[int, ...], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(STEPS):
        yield torch.randn(16, *shape, generator=generator), torch.randint(0, 4, (16,), generator=generator)


def _train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, shape: tuple[int, ...] = (10,)
) -> None:
    for x, y in _data(shape, epoch):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def _zeros(tensor: Tensor) -> int:
    return int((tensor == 0).sum())


def _scheduler(*policies: Policy, **options: Any) -> tuple[nn.Module, torch.optim.Optimizer, PruningScheduler]:
    model = _mlp()
    optimizer = _sgd(model)
    return model, optimizer, PruningScheduler(model, optimizer, policies, **options)


def test_epoch_times_act_when_an_epoch_begins_with_exact_counts() -> None:
    policy = Policy(granularity="element", targets="0.weight", schedule=AGP(final=0.5, initial=0.1, end=2))
    model, optimizer, scheduler = _scheduler(policy)
    weight = model[0].weight
    assert _zeros(weight) == 20
    seen = []
    for epoch in range(4):
        _train_epoch(model, optimizer, epoch)
        before = _zeros(weight)
        status = scheduler.epoch_end()
        seen.append((before, _zeros(weight), status.epoch, status.steps, len(status.events), status.finished))
    # .5 - .4/8 = .45 of 200 weights
    assert seen[:2] == [(20, 90, 1, 3, 2, False), (90, 100, 2, 6, 1, True)]
    assert seen[2:] == [(100, 100, 3, 9, 0, True), (100, 100, 4, 12, 0, True)]
    assert [event["units"] for event in scheduler.log] == [20, 90, 100]
    assert scheduler.sparsity == 100 / sum(p.numel() for p in model.parameters())


def test_step_times_act_once_that_many_steps_are_done() -> None:
    policy = Policy(granularity="element", schedule=Iterative(final=0.8, rounds=2, begin="2 steps", every="3 steps"))
    model, optimizer, scheduler = _scheduler(policy)
    total = sum(m.weight.numel() for m in model if isinstance(m, nn.Linear))
    seen = []
    for epoch in range(3):
        for x, y in _data((10,), epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            seen.append(sum(_zeros(m.weight) for m in model if isinstance(m, nn.Linear)) / total)
        scheduler.epoch_end()
    assert seen == pytest.approx([0, 0.4, 0.4, 0.4, 0.8, 0.8, 0.8, 0.8, 0.8], abs=2e-3)
    assert [event["step"] for event in scheduler.log] == [2, 5]


def test_times_inside_an_epoch_need_its_length() -> None:
    policy = Policy(granularity="element", schedule=OneShot(0.5, begin="0.5ep"))
    with pytest.raises(InputError, match="inside an epoch"):
        _scheduler(policy)
    model, optimizer, scheduler = _scheduler(policy, steps_per_epoch=4)
    _train_epoch(model, optimizer, 0)
    assert [event["step"] for event in scheduler.log] == [2]


def test_a_step_that_the_grad_scaler_skips_is_not_counted() -> None:
    model, optimizer, scheduler = _scheduler(Policy(granularity="element", schedule=OneShot(0.5, begin="2 steps")))
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    for step, (x, y) in enumerate(_data((10,), 0)):
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
    _, _, once = _scheduler(Policy(**common, schedule=OneShot(0.8)))
    _, _, gradual = _scheduler(Policy(**common, schedule=Iterative(final=0.8, rounds=5)))
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
    model, _, scheduler = _scheduler(policy)
    total = sum(m.weight.numel() for m in model if isinstance(m, nn.Linear))
    for number in range(1, 6):
        pruned = sum(int((~mask).sum()) for mask in scheduler.masks.masks.values())
        assert pruned == math.floor(0.8 * number / 5 * total + 0.5)
        scheduler.epoch_end()


@pytest.mark.parametrize("criterion", ["l1", "l2", "random"])
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_what_is_pruned_stays_pruned(criterion: str, allocation: str) -> None:
    policy = Policy(granularity="element", criterion=criterion, allocation=allocation, schedule=AGP(final=0.9, end=4))
    model, optimizer, scheduler = _scheduler(policy)
    total = sum(m.weight.numel() for m in model if isinstance(m, nn.Linear))
    before: dict[str, Tensor] = {}
    for epoch in range(4):
        _train_epoch(model, optimizer, epoch)
        scheduler.epoch_end()
        now = {name: mask.clone() for name, mask in scheduler.masks.masks.items()}
        assert all(not (now[name] & ~mask).any() for name, mask in before.items())
        pruned = sum(int((~mask).sum()) for mask in now.values())
        assert abs(pruned - total * AGP(final=0.9, end=4).fraction(epoch + 1)) <= len(now) / 2
        before = now


def test_several_policies_on_one_tensor_add_up() -> None:
    rows = Policy(granularity="filter", targets="0.weight", schedule=OneShot(0.5))
    single = Policy(granularity="element", criterion="random", targets="0.weight", schedule=OneShot(0.5))
    model, optimizer, scheduler = _scheduler(rows, single)
    _train_epoch(model, optimizer, 0)
    keep = scheduler.masks.masks["0.weight"]
    assert int((~keep).all(dim=1).sum()) >= 10
    assert int((~keep).sum()) > 100
    assert torch.equal(model[0].weight.detach() != 0, keep)
    assert scheduler.masks.sources == ("filter", "element")


def test_unnamed_policies_get_names_of_their_own_and_given_ones_must_differ() -> None:
    one = Policy(granularity="element", targets="0.weight", schedule=OneShot(0.5))
    two = Policy(granularity="element", targets="2.weight", schedule=OneShot(0.5))
    _, _, scheduler = _scheduler(one, two)
    assert scheduler.masks.sources == ("element", "element#2")
    named = Policy(name="a", granularity="element", schedule=OneShot(0.5))
    with pytest.raises(InputError, match="two policies are named 'a'"):
        _scheduler(named, named)


def test_two_four_prunes_every_group_at_once() -> None:
    policy = Policy(granularity="2:4", targets="2.weight", schedule=OneShot(begin=1))
    model, _, scheduler = _scheduler(policy)
    assert _zeros(model[2].weight) == 0
    scheduler.epoch_end()
    assert torch.equal((model[2].weight == 0).view(10, 5, 4).sum(-1), torch.full((10, 5), 2))


def test_per_layer_ratios_are_scaled_by_the_progress() -> None:
    policy = Policy(
        granularity="element",
        allocation={"per_layer": {"0.weight": 0.8, "2.weight": 0.4}},
        schedule=Iterative(rounds=2),
    )
    model, _, scheduler = _scheduler(policy)
    assert (_zeros(model[0].weight), _zeros(model[2].weight), _zeros(model[4].weight)) == (80, 40, 0)
    scheduler.epoch_end()
    assert (_zeros(model[0].weight), _zeros(model[2].weight), _zeros(model[4].weight)) == (160, 80, 0)


def test_per_layer_ratios_are_met_at_the_end_whatever_the_final_fraction_is_called() -> None:
    policy = Policy(
        granularity="element", allocation={"per_layer": {"0.weight": 0.8}}, schedule=Iterative(final=0.5, rounds=2)
    )
    model, _, scheduler = _scheduler(policy)
    assert _zeros(model[0].weight) == 80
    scheduler.epoch_end()
    assert _zeros(model[0].weight) == 160


def test_pruned_units_come_first_whatever_the_criterion_thinks_of_zeros() -> None:
    """A criterion that prunes the largest weights gives zeros its highest score; rounds must not start over."""

    class Largest:
        name, needs = "largest", frozenset[str]()

        def score(self, units: Tensor, counts: Tensor, *, key: str) -> Tensor:
            return 1 / (units.abs().sum(dim=1) + 1e-3)

    for allocation in ("uniform", "global"):
        schedule = Iterative(final=0.5, rounds=5)
        policy = Policy(granularity="element", criterion=Largest(), allocation=allocation, schedule=schedule)
        model, _, scheduler = _scheduler(policy)
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
    model, _, scheduler = _scheduler(policy)
    scheduler.epoch_end()
    assert int((model[0].weight == 0).all(dim=1).sum()) == 8


def test_without_a_graph_filters_are_rows_of_weights_alone() -> None:
    model, _, scheduler = _scheduler(Policy(granularity="filter", targets="0.weight", schedule=OneShot(0.5)))
    assert int((model[0].weight == 0).all(dim=1).sum()) == 10
    assert _zeros(model[0].bias) == 0
    assert scheduler.pruned_units() == {}


def _coupled(policy: Policy, **options: Any) -> tuple[nn.Module, torch.optim.Optimizer, PruningScheduler, Any]:
    model = _convnet()
    graph = trace(model, torch.randn(2, 1, 8, 8))
    optimizer = _sgd(model)
    return model, optimizer, PruningScheduler(model, optimizer, [policy], graph=graph, **options), graph


def test_with_a_graph_filters_go_with_all_that_hangs_on_them_and_thinned_equals_masked() -> None:
    policy = Policy(granularity="filter", criterion="l2", schedule=AGP(final=0.5, end=2), round_to=4)
    model, optimizer, scheduler, graph = _coupled(policy)
    for epoch in range(3):
        _train_epoch(model, optimizer, epoch, (1, 8, 8))
        scheduler.epoch_end()
    units = scheduler.pruned_units()
    assert sorted(int(pruned.sum()) for pruned in units.values()) == [4, 8]
    _train_epoch(model, optimizer, 9, (1, 8, 8))
    for group in graph.groups:
        gone = units[group.name]
        for member in group.members:
            tensor = dict(model.state_dict())[member.param]
            assert tensor.index_select(member.dim, member.index[gone].flatten()).abs().max() == 0, member
    small = Plan.from_pruned(graph, units).apply(model)
    x = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(small.eval()(x), model.eval()(x), rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in small.parameters()) < 0.5 * sum(p.numel() for p in model.parameters())


def test_stop_at_a_sparsity_ends_all_pruning() -> None:
    policy = Policy(granularity="element", schedule=Iterative(final=0.9, rounds=9))
    _, _, scheduler = _scheduler(policy, stop=[StopAtSparsity(0.35)])
    statuses = [scheduler.epoch_end() for _ in range(6)]
    assert [status.finished for status in statuses] == [False, False, True, True, True, True]
    assert 0.35 <= scheduler.sparsity < 0.45
    assert scheduler.log[-1]["event"] == "stopped"
    assert "has reached 0.35" in str(statuses[-1].reason)
    assert statuses[-1].sparsity == statuses[2].sparsity


def test_stop_at_a_compute_budget_counts_what_thinning_leaves() -> None:
    policy = Policy(granularity="filter", schedule=Iterative(final=0.875, rounds=7))
    _, _, scheduler, graph = _coupled(policy, stop=[StopAtBudget("macs=0.3")])
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
        _scheduler(policy, stop=[StopAtBudget("macs=0.5")])
    model, _, scheduler = _scheduler(policy, stop=[StopAtBudget("nnz=0.7")])
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
        _train_epoch(model, optimizer, epoch)
        scheduler.epoch_end({"top1": metrics[epoch]})


GRADUAL = Policy(granularity="element", criterion="l1", allocation="global", schedule=AGP(final=0.9, end=4, begin=1))


@pytest.mark.parametrize(("mode", "metrics"), [("max", [0.9, 0.95, 0.89, 0.5]), ("min", [0.9, 0.8, 0.91, 1.2])])
def test_the_guard_goes_back_to_the_last_good_state_bit_for_bit(mode: Any, metrics: list[float]) -> None:
    guard = AccuracyGuard("top1", max_drop=0.02, mode=mode)
    model, optimizer, scheduler = _scheduler(GRADUAL, guard=guard)
    _run(scheduler, model, optimizer, metrics[:2])
    _train_epoch(model, optimizer, 2)
    good = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"], dict(scheduler.masks.masks)))
    scheduler.epoch_end({"top1": metrics[2]})
    _train_epoch(model, optimizer, 3)
    status = scheduler.epoch_end({"top1": metrics[3]})
    assert all(torch.equal(value, good[0][name]) for name, value in model.state_dict().items())
    momenta = [(s["momentum_buffer"], g["momentum_buffer"]) for s, g in
               zip(optimizer.state_dict()["state"].values(), good[1].values(), strict=True)]  # fmt: skip
    assert all(torch.equal(a, b) for a, b in momenta)
    assert all(torch.equal(mask, good[2][name]) for name, mask in scheduler.masks.masks.items())
    assert status.finished
    assert scheduler.log[-1]["state"] == "epoch 3"
    assert "top1" in str(status.reason)
    _train_epoch(model, optimizer, 4)
    assert scheduler.epoch_end({"top1": 0.0}).sparsity == status.sparsity
    assert all(torch.count_nonzero(model.state_dict()[n][~m]) == 0 for n, m in good[2].items())


def test_the_guard_brings_back_the_pruned_units_too() -> None:
    policy = Policy(granularity="filter", schedule=Iterative(final=0.75, rounds=3))
    model, _, scheduler, _ = _coupled(policy, guard=AccuracyGuard("top1", 0.05, reference=0.9))
    good = scheduler.pruned_units()
    scheduler.epoch_end({"top1": 0.9})
    assert any(not torch.equal(units, good[name]) for name, units in scheduler.pruned_units().items())
    scheduler.epoch_end({"top1": 0.1})
    assert all(torch.equal(units, good[name]) for name, units in scheduler.pruned_units().items())
    assert int((model[0].weight == 0).flatten(1).all(dim=1).sum()) == 2


def test_the_guard_keeps_the_present_learning_rate_when_it_goes_back() -> None:
    model, optimizer, scheduler = _scheduler(GRADUAL, guard=AccuracyGuard("top1", 0.1))
    _run(scheduler, model, optimizer, [0.9])
    optimizer.param_groups[0]["lr"] = 0.007
    _run(scheduler, model, optimizer, [0.9, 0.1], start=1)
    assert optimizer.param_groups[0]["lr"] == 0.007
    assert scheduler.log[-1]["event"] == "restored"


def test_a_guard_that_restores_the_dense_model_leaves_it_dense() -> None:
    policy = Policy(granularity="element", schedule=OneShot(0.5))
    model, optimizer, scheduler = _scheduler(policy, guard=AccuracyGuard("top1", 0.01, reference=0.9))
    dense = _mlp().state_dict()
    _train_epoch(model, optimizer, 0)
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
            _scheduler(policy, guard=guard)
    with pytest.raises(InputError, match=r"guard.reference"):
        _scheduler(in_steps, guard=guard, steps_per_epoch=3)
    _scheduler(in_steps, guard=guard, steps_per_epoch=2)
    _, _, scheduler = _scheduler(GRADUAL, guard=guard)
    with pytest.raises(InputError, match="the guard needs the metric 'top1'"):
        scheduler.epoch_end()
    with pytest.raises(NameNotFound, match="did you mean top5"):
        scheduler.epoch_end({"top5": 0.5})


def test_metrics_that_are_nan_or_no_numbers_stop_the_run_by_name() -> None:
    _, _, scheduler = _scheduler(GRADUAL)
    with pytest.raises(TrainingError, match="metric loss is nan after epoch 1"):
        scheduler.epoch_end({"top1": 0.5, "loss": float("nan")})
    with pytest.raises(InputError, match="metric top1 is 'good'"):
        scheduler.epoch_end({"top1": "good"})  # type: ignore[dict-item]
    assert scheduler.epoch == 0


def test_nan_weights_are_named() -> None:
    model, _, scheduler = _scheduler(GRADUAL)
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    scheduler.epoch_end()
    with pytest.raises(TrainingError, match=r"2.weight holds nan weights"):
        scheduler.epoch_end()


def _adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.05)


def _make(make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]) -> tuple[Any, Any, PruningScheduler]:
    model = _mlp()
    optimizer = make_optimizer(model)
    policies = [
        GRADUAL,
        Policy(granularity="filter", targets="0.weight", criterion="random",
               schedule=Iterative(final=0.4, rounds=3, begin="2 steps", every="4 steps")),
    ]  # fmt: skip
    guard = AccuracyGuard("top1", 0.05, reference=0.9)
    return model, optimizer, PruningScheduler(model, optimizer, policies, guard=guard, stop=[StopAtSparsity(0.85)])


@pytest.mark.parametrize("make_optimizer", [_sgd, _adamw])
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
    model, optimizer, scheduler = _scheduler(GRADUAL)
    _run(scheduler, model, optimizer, [0.9, 0.9, 0.9])
    state = scheduler.state_dict()
    _, _, other = _scheduler(Policy(granularity="filter", schedule=OneShot(0.5)))
    before = other.state_dict()
    with pytest.raises(InputError, match="does not fit policy 'filter'"):
        other.load_state_dict(state)
    with pytest.raises(InputError, match="not a scheduler's state of version 1"):
        other.load_state_dict({"epoch": 3})
    assert str(other.state_dict()) == str(before)


def test_policies_that_match_nothing_and_none_at_all_are_refused() -> None:
    with pytest.raises(NameNotFound, match=r"0.wieght"):
        _scheduler(Policy(granularity="element", targets="0.wieght", schedule=OneShot(0.5)))
    with pytest.raises(InputError, match="there are no policies"):
        _scheduler()
    with pytest.raises(InputError, match="is no policy"):
        _scheduler("filter")  # type: ignore[arg-type]


def test_a_schedule_that_prunes_nothing_says_why_when_it_is_closed() -> None:
    rounded = Policy(name="rounded", granularity="filter", targets="4.weight", schedule=OneShot(0.2), round_to=4)
    with pytest.raises(NothingToPrune, match=r"policy 'rounded' at 0.2 of 4 units in 1 targets comes to none"):
        _scheduler(rounded)[2].close()
    late = Policy(name="late", granularity="element", schedule=OneShot(0.5, begin=7))
    model = _mlp()
    with (
        pytest.raises(NothingToPrune, match="policy 'late' has not begun"),
        PruningScheduler(model, _sgd(model), [late]) as scheduler,
    ):
        scheduler.epoch_end()


def test_closing_never_hides_another_error_and_frees_the_weights() -> None:
    late = Policy(granularity="element", schedule=OneShot(0.5, begin=7))
    model = _mlp()
    with pytest.raises(KeyboardInterrupt), PruningScheduler(model, _sgd(model), [late]):
        raise KeyboardInterrupt
    scheduler = PruningScheduler(model, _sgd(model), [late])

    def interrupted() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            scheduler.close()

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    optimizer = _sgd(model)
    with PruningScheduler(model, optimizer, [Policy(granularity="element", schedule=OneShot(0.5))]) as again:
        _train_epoch(model, optimizer, 0)
        assert _zeros(model[0].weight) == 100
    assert not optimizer._optimizer_step_post_hooks
    _train_epoch(model, optimizer, 1)
    assert _zeros(model[0].weight) < 100
    assert again.steps == STEPS


def test_thresholds_zero_every_weight_at_or_below_them() -> None:
    model = _mlp()
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
    model = _mlp()
    optimizer = _sgd(model)
    wanted = MagnitudeParameterPruner(0.1)
    reference = wanted.prune_(_mlp())
    scheduler = PruningScheduler(model, optimizer, [wanted])
    _train_epoch(model, optimizer, 0)
    scheduler.epoch_end()
    assert all(torch.equal(mask, reference.masks[name]) for name, mask in scheduler.masks.masks.items())
    assert scheduler.finished


def test_wrong_thresholds_are_refused() -> None:
    with pytest.raises(InputError, match="threshold of a is -1"):
        MagnitudeParameterPruner({"a": -1})
    with pytest.raises(NameNotFound, match=r"6.weight"):
        MagnitudeParameterPruner({"6.weight": 0.1}).prune_(_mlp())
    with pytest.raises(NothingToPrune, match="no weight is at or below"):
        MagnitudeParameterPruner(0.0).prune_(_mlp())
