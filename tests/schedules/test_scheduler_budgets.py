"""A policy that names a budget, and a stop at a latency."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prunus import zoo
from prunus.axes import trace
from prunus.errors import InputError, NothingToPrune
from prunus.plans import Plan
from prunus.runtimes import register_device
from prunus.schedules import AGP, Iterative, OneShot, Policy, PruningScheduler, StopAtBudget
from runtimes.counting import Counting
from schedules.running import make_coupled, make_scheduler, make_sgd, train_one_epoch

QUANTITIES = ("macs", "params", "bytes", "energy")


class Curving(Counting):
    """A whole model takes (MACs + a million) ** 0.7: its parts say more of it than there is."""

    name = "curving"

    def __init__(self) -> None:
        super().__init__(overhead=1e6, power=0.7)


class Plunging(Counting):
    """A whole model gains more than its parts say."""

    name = "plunging"

    def __init__(self) -> None:
        super().__init__(power=2.0)


register_device("curving", Curving)
register_device("plunging", Plunging)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def resnet(*policies: Policy, **options: Any) -> tuple[Any, Any, PruningScheduler, Any]:
    torch.manual_seed(0)
    model = zoo.resnet20()
    graph = trace(model.eval(), torch.randn(2, 3, 32, 32))
    optimizer = make_sgd(model)
    return model, optimizer, PruningScheduler(model, optimizer, policies, graph=graph, **options), graph


def macs_left(scheduler: PruningScheduler, graph: Any) -> float:
    left = graph.size({name: int((~units).sum()) for name, units in scheduler.pruned_units().items()})
    return float(left.macs / graph.size().macs)


@pytest.mark.parametrize("allocation", ["uniform", "global", "lamp"])
@pytest.mark.parametrize("schedule", [OneShot(), Iterative(rounds=3), AGP(end=4)])
def test_the_last_step_meets_the_budget_and_those_before_lead_there(schedule: Any, allocation: str) -> None:
    policy = Policy(granularity="filter", criterion="l2", schedule=schedule, target="macs=0.5", allocation=allocation)
    _, _, scheduler, graph = resnet(policy)
    shares = [macs_left(scheduler, graph)]
    while not scheduler.finished:
        scheduler.epoch_end()
        shares.append(macs_left(scheduler, graph))
    assert 0.495 <= shares[-1] <= 0.5
    assert shares == sorted(shares, reverse=True)
    for epoch, share in enumerate(shares):
        assert share == pytest.approx(1 - 0.5 * schedule.fraction(epoch), abs=0.01)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_a_budget_of_any_quantity_is_met_on_weights_that_change(quantity: str) -> None:
    policy = Policy(granularity="filter", schedule=AGP(end=3), target=f"{quantity}=0.6", allocation="global")
    model, optimizer, scheduler, graph = make_coupled(policy)
    while not scheduler.finished:
        train_one_epoch(model, optimizer, scheduler.epoch, (1, 8, 8))
        scheduler.epoch_end()
    stop = StopAtBudget(f"{quantity}=0.6")
    assert stop.reached(scheduler._figures.of) is not None
    assert StopAtBudget(f"{quantity}=0.5").reached(scheduler._figures.of) is None
    small = Plan.from_pruned(graph, scheduler.pruned_units()).apply(model)
    assert small(torch.randn(2, 1, 8, 8)).shape == (2, 4)


def test_zeros_meet_a_sparsity_of_the_targets_or_a_number_of_nonzeros() -> None:
    for target, zeros in (("sparsity=0.7", 0.7), ("nnz<=200", None)):
        policy = Policy(granularity="element", schedule=Iterative(rounds=2), target=target, allocation="global")
        model, _, scheduler = make_scheduler(policy)
        scheduler.epoch_end()
        weights = [p for p in model.parameters() if p.dim() > 1]
        total, gone = sum(p.numel() for p in weights), sum(int((p == 0).sum()) for p in weights)
        if zeros is None:
            assert sum(int(p.count_nonzero()) for p in model.parameters()) in range(198, 201)
        else:
            assert 0 <= gone / total - zeros <= 1 / total


def test_zeros_of_vectors_that_do_not_divide_the_inputs_are_counted_as_they_are() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(36, 36), nn.Linear(36, 20))
    policy = Policy(granularity="vector(32)", schedule=Iterative(rounds=2), target="sparsity=0.5", allocation="global")
    scheduler = PruningScheduler(model, torch.optim.SGD(model.parameters(), 0.1), [policy])
    scheduler.epoch_end()
    weights = [layer.weight for layer in model]
    gone, total = sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights)
    assert total / 2 <= gone <= total / 2 + 32


def test_a_budget_counts_with_what_other_policies_have_pruned() -> None:
    first = Policy(name="first", granularity="filter", targets="layer1*", schedule=OneShot(0.5))
    second = Policy(
        name="second", granularity="filter", targets=["layer2*", "layer3*"], schedule=OneShot(), target="macs=0.6"
    )
    _, _, both, graph = resnet(first, second)
    assert 0.59 <= macs_left(both, graph) <= 0.6
    _, _, alone, graph = resnet(second)
    assert 0.59 <= macs_left(alone, graph) <= 0.6
    assert sum(int(u.sum()) for n, u in both.pruned_units().items() if not n.startswith("layer1")) < sum(
        int(u.sum()) for u in alone.pruned_units().values()
    )


def test_a_group_of_two_policies_counts_once() -> None:
    first = Policy(name="first", granularity="filter", targets="layer1*", schedule=OneShot(0.5))
    second = Policy(name="second", granularity="filter", criterion="l2", schedule=AGP(end=3), target="macs=0.5")
    for policies in ((first, second), (second, first)):
        _, _, scheduler, graph = resnet(*policies)
        while not scheduler.finished:
            scheduler.epoch_end()
        assert 0.495 <= macs_left(scheduler, graph) <= 0.5
    hard = Policy(name="hard", granularity="filter", targets="layer1*", schedule=OneShot(0.9))
    mild = Policy(name="mild", granularity="filter", max_ratio=0.3, schedule=OneShot(), target="macs=0.45")
    _, _, scheduler, graph = resnet(hard, mild)
    assert macs_left(scheduler, graph) <= 0.45


def test_a_latency_that_another_policy_met_is_measured_and_nothing_more_goes() -> None:
    first = Policy(name="first", granularity="filter", targets="layer[23]*", schedule=OneShot(0.7))
    second = Policy(
        name="second", granularity="filter", targets="layer1*", schedule=AGP(end=2), target="latency=0.8@curving"
    )
    _, _, scheduler, _ = resnet(first, second)
    while not scheduler.finished:
        scheduler.epoch_end()
    assert "measured on curving, 0.800 asked" in scheduler.log[-1]["latency"]
    assert not any(u.any() for n, u in scheduler.pruned_units().items() if n.startswith("layer1"))


def test_what_other_policies_will_never_prune_is_not_counted_on() -> None:
    little = Policy(name="little", granularity="filter", targets="layer1*", schedule=AGP(end=3, final=0.1))
    other = Policy(
        name="other", granularity="filter", targets="layer[23]*", schedule=AGP(end=3), target="macs=0.25", max_ratio=0.8
    )
    with pytest.raises(InputError, match=r"^policy 'other': target: macs=0\.25 is out of reach"):
        resnet(little, other)


def test_what_only_several_policies_reach_together_is_no_error() -> None:
    first = Policy(name="first", granularity="filter", targets="layer1*", schedule=OneShot(0.8))
    second = Policy(name="second", granularity="filter", targets="layer[23]*", schedule=OneShot(), target="macs=0.25")
    _, _, both, graph = resnet(first, second)
    assert 0.24 <= macs_left(both, graph) <= 0.25
    with pytest.raises(InputError, match="out of reach"):
        resnet(second)


def test_a_latency_is_met_by_the_whole_model_in_the_steps_of_kernels() -> None:
    policy = Policy(granularity="filter", schedule=Iterative(rounds=2), target="latency=0.7@curving")
    _, _, scheduler, graph = resnet(policy)
    scheduler.epoch_end()
    dense, left = graph.size().macs, macs_left(scheduler, graph) * graph.size().macs
    assert ((left + 1e6) / (dense + 1e6)) ** 0.7 == pytest.approx(0.7, rel=0.03)
    assert "of the dense latency measured on curving, 0.700 asked" in scheduler.log[-1]["latency"]
    kept = {graph[name].size: int((~units).sum()) for name, units in scheduler.pruned_units().items()}
    assert all(count % 4 == 0 for count in kept.values())


def test_steps_on_the_way_to_a_latency_do_not_go_beyond_it_where_the_table_is_off() -> None:
    policy = Policy(granularity="filter", schedule=AGP(end=8), target="latency=0.8@plunging", allocation="global")
    _, _, scheduler, graph = resnet(policy)
    shares = []
    while not scheduler.finished:
        scheduler.epoch_end()
        shares.append(macs_left(scheduler, graph) ** 2)
    assert shares == sorted(shares, reverse=True)
    assert 0.72 < shares[-1] <= 0.8 * 1.03  # 0.56 where the table is not fitted


def test_stop_at_a_latency_measures_what_is_left() -> None:
    policy = Policy(granularity="filter", schedule=Iterative(final=0.8, rounds=8))
    _, _, scheduler, graph = resnet(policy, stop=[StopAtBudget("latency=0.7@curving")])
    shares = []
    while not scheduler.finished:
        left = macs_left(scheduler, graph) * graph.size().macs
        shares.append(((left + 1e6) / (graph.size().macs + 1e6)) ** 0.7)
        scheduler.epoch_end()
    left = macs_left(scheduler, graph) * graph.size().macs
    assert shares[-1] > 0.7 >= ((left + 1e6) / (graph.size().macs + 1e6)) ** 0.7
    assert "has met the budget latency=0.7@curving" in scheduler.log[-1]["reason"]


def test_what_was_chosen_goes_on_after_a_resume(tmp_path: Path) -> None:
    policy = Policy(granularity="filter", schedule=AGP(end=3), target="macs=0.5", allocation="global")
    model, optimizer, scheduler, graph = make_coupled(policy)
    scheduler.epoch_end()
    states = [{k: v.clone() for k, v in model.state_dict().items()}, optimizer.state_dict(), scheduler.state_dict()]
    while not scheduler.finished:
        scheduler.epoch_end()
    model, optimizer, again, _ = make_coupled(policy)
    model.load_state_dict(states[0])
    optimizer.load_state_dict(states[1])
    again.load_state_dict(states[2])
    while not again.finished:
        again.epoch_end()
    assert all(torch.equal(units, again.pruned_units()[name]) for name, units in scheduler.pruned_units().items())
    assert macs_left(again, graph) <= 0.5


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            {"target": "macs=0.5", "schedule": OneShot(0.5)},
            r"^target: macs=0.5 says how much goes, and so does the schedule, which ends at 0.5",
        ),
        ({"target": "macs=0.5", "granularity": "element"}, "^target: zeroed elements do not lower macs"),
        ({"target": "latency=0.5@torch", "granularity": "element"}, "^target: zeros do not become speed"),
        ({"target": "sparsity=0.5", "granularity": "2:4"}, "^target: 2:4 itself says how much goes"),
        ({"target": "sparsity=0.5", "granularity": "element", "allocation": {"splicing": {"a": 1}}}, "splicing"),
        ({"target": "mac=0.5"}, "did you mean macs"),
        ({"target": "macs=0"}, "budget macs is '0'"),
    ],
)
def test_budgets_that_a_policy_cannot_meet_are_refused_when_it_is_made(words: dict[str, Any], error: str) -> None:
    with pytest.raises(InputError, match=error):
        Policy(**{"granularity": "filter", "schedule": OneShot(), **words})


def test_budgets_out_of_reach_are_refused_when_the_scheduler_is_built() -> None:
    def coupled(**words: Any) -> Any:
        return make_coupled(Policy(granularity="filter", schedule=OneShot(begin=5), **words))

    with pytest.raises(InputError, match=r"target: macs=0\.2 is out of reach: with all .* macs gets to 0\.\d+ of the"):
        coupled(target="macs=0.2", max_ratio=0.5)
    with pytest.raises(InputError, match=r"target: macs=0\.2 is out of reach"):
        coupled(target="macs=0.2", allocation={"per_layer": {"0": 0.5}})
    with pytest.raises(NothingToPrune, match="met by the dense model as it is"):
        coupled(target="params<=1e9")
    with pytest.raises(InputError, match=r"needs the model's structure; give graph="):
        make_scheduler(Policy(granularity="filter", schedule=OneShot(), target="macs=0.5"))
