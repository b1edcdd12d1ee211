"""Ratios for a budget against brute force over all counts, and against the real plan; ratios per stage by hand."""

import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from prunus import perform_sensitivity_analysis, plan, trace, zoo
from prunus.allocation import Budget, parse_budget
from prunus.allocation.counts import num_pruned
from prunus.errors import InputError, NameNotFound
from prunus.granularity import find_targets
from prunus.runtimes import register_device
from prunus.runtimes.table import structure
from prunus.sensitivity import Costs, Curves, TargetCost, target_costs
from prunus.sensitivity.filling import Filling, ratio_of
from runtimes.counting import Counting

LEVELS = (0.25, 0.5, 0.75)


def chain(sizes, *, equal=()):
    """A chain of layers: MACs are products of neighbouring widths, parameters the same."""
    names = [f"g{i}" for i in range(len(sizes))]
    terms = (
        (3, (names[0],)),
        *((1, tuple(sorted(pair))) for pair in itertools.pairwise(names)),
        (10, (names[-1],)),
    )
    targets = {name: TargetCost(size, 1.0, minimum=1, rounds=True) for name, size in zip(names, sizes, strict=True)}
    return Costs(targets, True, terms, terms, terms, dict(zip(names, sizes, strict=True)), equal)


def curves_of(costs, drops, levels=LEVELS):
    values = {name: tuple(0.9 - drop for drop in found) for name, found in drops.items()}
    return Curves("top1", "filter", "l1", levels, {"top1": 0.9}, {"top1": values}, costs)


def loss(filling, counts):
    return sum(filling.drop(name, count) for name, count in counts.items())


def best_of_all(filling, budget):
    """The smallest foreseen loss among all counts that meet the budget."""
    costs = filling.costs
    reach = [range(max(costs.measured(name, filling.levels)) + 1) for name in costs.targets]
    found = math.inf
    for counts in itertools.product(*reach):
        named = dict(zip(costs.targets, counts, strict=True))
        if budget.is_met(costs.left(named).macs, costs.left({}).macs):
            found = min(found, loss(filling, named))
    return found


def test_convex_curves_and_equal_costs_are_filled_as_well_as_brute_force_can():
    """With equal costs per unit marginal allocation is optimal (Fox 1966)."""
    for seed in range(20):
        draw = random.Random(seed)
        names = ["a", "b", "c"]
        targets = {name: TargetCost(8, 1.0, minimum=1) for name in names}
        terms = tuple((1, (name,)) for name in names)
        costs = Costs(targets, True, terms, terms, terms, dict.fromkeys(names, 8))
        drops = {name: np.cumsum(np.sort([draw.random() for _ in LEVELS])).tolist() for name in names}
        budget = parse_budget("macs=0.6")
        filling = Filling(costs, LEVELS, drops, budget)
        counts = costs.counts(filling.fill())
        assert budget.is_met(costs.left(counts).macs, 24)
        assert loss(filling, counts) == pytest.approx(best_of_all(filling, budget), abs=1e-12)


def test_coupled_costs_and_humps_are_filled_nearly_as_well_as_brute_force_can():
    worse = []
    for seed in range(30):
        draw = random.Random(seed)
        costs = chain([draw.randint(4, 10) for _ in range(3)])
        drops = {name: [draw.random() ** 2 for _ in LEVELS] for name in costs.targets}
        budget = parse_budget("macs=0.5")
        filling = Filling(costs, LEVELS, drops, budget)
        counts = costs.counts(filling.fill())
        assert budget.is_met(costs.left(counts).macs, costs.left({}).macs)
        worse.append(loss(filling, counts) - best_of_all(filling, budget))
    assert min(worse) > -1e-12
    assert np.mean(worse) < 0.02
    assert np.mean(np.array(worse) < 1e-9) > 0.8


def test_a_hump_is_looked_past():
    """A quarter of g0 loses much, three quarters of it no more: its first step alone is too dear."""
    costs = chain([8, 8])
    drops = {"g0": [0.2, 0.2, 0.2], "g1": [0.15, 0.3, 0.45]}
    filling = Filling(costs, LEVELS, drops, parse_budget("macs=0.5"))
    counts = costs.counts(filling.fill())
    assert counts["g0"] == 6
    assert loss(filling, counts) == pytest.approx(best_of_all(filling, filling.budget))


def linear(costs_of_units, units=100):
    """Targets whose units cost what is given, whatever the others have left."""
    names = [f"g{i}" for i in range(len(costs_of_units))]
    terms = tuple((cost, (name,)) for cost, name in zip(costs_of_units, names, strict=True))
    targets = {name: TargetCost(units, 1.0, minimum=1) for name in names}
    return Costs(targets, True, terms, terms, terms, dict.fromkeys(names, units))


def test_units_of_different_cost_are_filled_as_well_as_fractions_of_units_could_be():
    """Stretches of convex curves, cheapest per saving first, the last one in part: the optimum of the relaxation."""
    for seed in range(5):
        draw = np.random.default_rng(seed)
        units = draw.integers(1, 200, 12)
        costs = linear(units.tolist())
        drops = {name: np.cumsum(np.sort(draw.random(3))).tolist() for name in costs.targets}
        counts = costs.counts(Filling(costs, LEVELS, drops, parse_budget("macs=0.6")).fill())
        stretches = []
        for unit, found in zip(units, drops.values(), strict=True):
            stretches += [(drop, 25 * int(unit)) for drop in np.diff([0, *found])]
        missing, optimum = 0.4 * 100 * units.sum(), 0.0
        for drop, saved in sorted(stretches, key=lambda stretch: stretch[0] / stretch[1]):
            part = min(1.0, missing / saved)
            missing, optimum = missing - part * saved, optimum + part * drop
        assert loss(Filling(costs, LEVELS, drops, parse_budget("macs=0.6")), counts) <= optimum * 1.02 + 0.02


def test_cheap_units_that_a_dear_one_makes_superfluous_are_given_back():
    costs = Costs(
        {"few": TargetCost(4, 1.0, minimum=1), "many": TargetCost(8, 1.0, minimum=1)},
        True,
        terms := ((10, ("few",)), (1, ("many",))),
        terms,
        terms,
        {"few": 4, "many": 8},
    )
    found = Filling(costs, LEVELS, {"few": (0.5, 0.8, 0.9), "many": (0.01, 0.02, 0.03)}, parse_budget("macs<=36"))
    assert costs.counts(found.fill()) == {"few": 1, "many": 2}


def test_nothing_is_pruned_that_the_budget_does_not_ask_for():
    costs = chain([16, 16, 16])
    drops = dict.fromkeys(costs.targets, (0.0, 0.1, 0.5))
    filling = Filling(costs, LEVELS, drops, parse_budget("macs=0.6"))
    counts = costs.counts(filling.fill())
    for name in costs.targets:
        fewer = {**counts, name: counts[name] - 1}
        assert counts[name] == 0 or not filling._is_met(fewer)


def test_equal_sets_move_together_and_a_torn_one_not_at_all():
    drops = {"g0": (0.0, 0.0, 0.0), "g1": (0.5, 0.5, 0.5), "g2": (0.1, 0.2, 0.9)}
    whole = chain([8, 8, 8], equal=(("g0", "g2"),))
    counts = whole.counts(Filling(whole, LEVELS, drops, parse_budget("macs=0.6")).fill())
    assert counts["g0"] == counts["g2"] > 0
    torn = chain([8, 8, 8], equal=(("g0", "elsewhere"),))
    counts = torn.counts(Filling(torn, LEVELS, drops, parse_budget("macs=0.6")).fill())
    assert counts["g0"] == 0


@pytest.mark.parametrize("target", ["macs=0.5", "params=0.4", "params<=150000", "bytes=0.6", "sparsity=0.3", "nnz=0.7"])
@pytest.mark.parametrize("round_to", [1, 4])
def test_the_real_plan_meets_the_budget_within_one_percent_or_one_unit(target, round_to):
    torch.manual_seed(0)
    model = zoo.resnet20().eval()
    graph = trace(model, torch.zeros(2, 3, 32, 32))
    costs = target_costs(model, find_targets(model, "filter", "*", graph), graph)
    draw = random.Random(1)
    drops = {name: sorted(draw.random() for _ in range(9)) for name in costs.targets}
    curves = curves_of(costs, drops, tuple(i / 10 for i in range(1, 10)))
    ratios = curves.ratios_for(target, round_to=round_to)
    size = graph.size(dict(plan(graph, ratio=0.5, allocation={"per_layer": ratios}, round_to=round_to).sizes))
    budget, full = parse_budget(target), graph.size()
    quantity = {"nnz": "params"}.get(budget.quantity, budget.quantity)
    pair = (
        (1 - size.params / full.params, 0.0)
        if quantity == "sparsity"
        else (getattr(size, quantity), getattr(full, quantity))
    )
    assert budget.is_met(*pair)
    dearest = max(getattr(graph.unit_cost(g.name), quantity.replace("sparsity", "params")) for g in graph.groups)
    whole = getattr(full, quantity.replace("sparsity", "params"))
    assert budget.unused(*pair) < max(0.01, round_to * dearest / whole / 0.4)


def test_zeros_meet_a_sparsity_exactly():
    torch.manual_seed(0)
    model = zoo.LeNet300()
    costs = target_costs(model, find_targets(model, "element", "*"))
    drops = {name: (0.01 * i, 0.1, 0.5) for i, name in enumerate(costs.targets)}
    curves = curves_of(costs, drops, (0.5, 0.8, 0.95))
    counts = costs.counts(curves.ratios_for("sparsity=0.9"))
    assert 0.9 <= costs.sparsity(counts) < 0.901
    with pytest.raises(NameNotFound, match="nnz, sparsity"):
        curves.ratios_for("macs=0.5")


@pytest.mark.parametrize("inputs", [36, 401])
def test_zeros_of_vectors_that_do_not_divide_the_inputs_are_counted_as_they_are(inputs):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(inputs, 200), torch.nn.Linear(200, 9)).double()

    def evaluate(net):
        return float((net[0].weight.abs().sum() + 3 * net[1].weight.abs().sum()).detach())

    curves = perform_sensitivity_analysis(model, evaluate, granularity="vector(32)", levels=(0.3, 0.6, 0.9))
    ratios = Curves.from_dict(curves.to_dict()).ratios_for("sparsity=0.5")
    made = plan(trace(model, torch.zeros(2, inputs).double()), ratio=0.5, granularity="vector(32)", criterion="l1",
                allocation={"per_layer": ratios})  # fmt: skip
    zeros = sum(int((~mask).sum()) for mask in made.masks.values())
    total = sum(layer.weight.numel() for layer in model)
    assert zeros == pytest.approx(curves.costs.sparsity(curves.costs.counts(ratios)) * total, abs=inputs / 36)
    assert zeros == pytest.approx(total / 2, abs=40)


def test_a_budget_beyond_the_highest_level_is_refused():
    costs = chain([8, 8])
    curves = curves_of(costs, dict.fromkeys(costs.targets, (0.1, 0.2, 0.3)))
    with pytest.raises(
        InputError, match=r"macs=0\.01 is out of reach: at the highest level measured, 0\.75, macs comes"
    ):
        curves.ratios_for("macs=0.01")


def test_infinite_losses_are_never_chosen():
    costs = chain([8, 8])
    curves = curves_of(costs, {"g0": (math.inf, math.inf, math.inf), "g1": (0.5, math.nan, 0.6)})
    with pytest.raises(InputError, match="out of reach"):
        curves.ratios_for("macs=0.5")


@pytest.mark.parametrize("units", [1, 3, 7, 16, 100, 4999, 64_000, 1_000_003])
def test_ratios_prune_the_counts_they_stand_for(units):
    for count in {0, 1, units // 3, units // 2, units - 1}:
        pruned = num_pruned(ratio_of(count, units), units)
        assert pruned == count if units < 5000 else pruned == pytest.approx(count, abs=units / 10_000 + 1)


def test_per_stage_gives_the_smallest_ratio_and_skips_the_sensitive():
    stages = {"a": "8x8", "b": "8x8", "c": "8x8", "d": "4x4"}
    costs = Costs({name: TargetCost(10, 1.0, stage=stage) for name, stage in stages.items()}, True, (), ())
    curves = curves_of(costs, {"a": (0, 0, 1), "b": (0, 0.02, 1), "c": (1, 1, 1), "d": (0, 0, 0)})
    own = curves.ratios(0.01)
    assert own["b"] == pytest.approx(0.375)
    assert own["c"] < 0.1
    assert curves.ratios(0.01, per_stage=True) == {"a": own["b"], "b": own["b"], "c": 0.0, "d": 0.75}
    assert curves.ratios(0.01, per_stage=True, skip=0.0)["a"] == own["c"]
    with pytest.raises(InputError, match="feature maps"):
        Curves("top1", "filter", "l1", (0.5,), {"top1": 1}, {"top1": {"a": (1,)}}).ratios(0.1, per_stage=True)


def test_intersections_are_those_of_linear_interpolation():
    draw = np.random.default_rng(0)
    for _ in range(50):
        drops = np.cumsum(draw.random(3))
        curves = curves_of(None, {"a": drops})
        for most in (0.01, 0.4, 1.0, 5.0):
            expected = np.interp(most, [0, *drops], [0, *LEVELS])
            assert curves.ratios(most)["a"] == pytest.approx(expected)


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    """Curves of a net on a device whose times are the MACs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        graph = trace(zoo.resnet20().eval(), torch.zeros(1, 3, 32, 32))
        targets, draw = find_targets(graph.model, "filter", "*", graph), random.Random(0)
        drops = {t.name: sorted(draw.random() for _ in LEVELS) for t in targets}
        return curves_of(target_costs(graph.model, targets, graph), drops).timed(graph, Counting())


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_where_time_is_macs_a_latency_is_met_by_the_same_ratios(timed, share):
    latency = timed.ratios_for(Budget("latency", share, True, "counting"), round_to=1)
    assert latency == timed.ratios_for(f"macs={share}")
    absolute = Budget("latency", share * timed.costs.left({}).latency, False, "counting")
    assert timed.ratios_for(absolute, round_to=1) == latency


def test_a_latency_is_met_at_the_steps_of_the_kernels(timed):
    counts = timed.costs.counts(timed.ratios_for(Budget("latency", 0.6, True, "counting")), round_to="auto")
    left = {name: timed.costs.targets[name].units - count for name, count in counts.items()}
    assert timed.costs.left(counts).latency <= 0.6 * timed.costs.left({}).latency
    assert all(kept % timed.costs.targets[name].step == 0 for name, kept in left.items())
    assert {target.step for target in timed.costs.targets.values()} == {4, 8, 16}


class Arched(Counting):
    """A whole model takes less than its parts say, the more so the larger it is."""

    name = "arched"

    def __init__(self):
        super().__init__(overhead=1e6, power=0.4)


def test_a_latency_is_met_by_whole_models_where_the_graph_is_given(timed):
    register_device("arched", Arched)
    graph, on = trace(zoo.resnet20().eval(), torch.zeros(1, 3, 32, 32)), Arched()
    arched = timed.timed(graph, on)

    def share(ratios):
        counts = arched.costs.counts(ratios, round_to="auto")
        model = structure(graph, arched.costs.left_of(counts))
        x = torch.zeros(1, 3, 32, 32)
        return on.prepare(model, (x,))() / on.prepare(graph.model, (x,))()

    estimated = share(arched.ratios_for("latency=0.8@arched"))
    measured = share(arched.ratios_for("latency=0.8@arched", graph=graph))
    assert estimated > 1.03 * 0.8
    assert 0.95 * 0.8 < measured <= 1.03 * 0.8


def test_a_latency_that_nobody_timed_is_refused(timed):
    with pytest.raises(InputError, match="know the latency on counting only; time them first"):
        timed.ratios_for("latency=0.6@onnxruntime")
    bare = curves_of(chain([8]), {"g0": (0.1, 0.2, 0.3)})
    with pytest.raises(InputError, match="know the latency on no device"):
        bare.ratios_for("latency=0.6")
    graph = trace(zoo.lenet5().eval(), zoo.example_input("lenet5"))
    with pytest.raises(InputError, match="other groups than the analysis"):
        timed.timed(graph)
    zeros = replace(timed, granularity="element", costs=replace(timed.costs, coupled=False))
    with pytest.raises(InputError, match="do not become speed"):
        zeros.timed(graph)
