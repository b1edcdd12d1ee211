"""Clamping, repairing and the choices themselves, against enumeration over small grids."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import prunus
from prunus.allocation import parse_budget
from prunus.criteria import criterion
from prunus.errors import InputError
from prunus.granularity import granularity
from prunus.search.features import features_of
from prunus.search.meter import Meter, brought, clamped, first, uniform, way
from prunus.search.space import Knob, find_space
from search.toys import coupled_cost, knobs, linear_cost

BUDGETS = ("macs=0.3", "macs=0.5", "macs=0.8", "macs<=50", "sparsity=0.5")


def meter(budget="macs=0.5", found=None, cost=coupled_cost):
    found = knobs(3, 6) if found is None else found
    ruler = cost(found)
    if budget.startswith("sparsity"):
        return Meter(parse_budget(budget), found, lambda counts: (1 - ruler(counts)[0] / ruler(counts)[1], 0.0))
    return Meter(parse_budget(budget), found, ruler)


def every_choice(found):
    return itertools.product(*(knob.steps for knob in found.knobs))


@pytest.mark.parametrize("budget", BUDGETS)
def test_clamped_actions_always_meet_the_budget_and_are_never_clamped_further_than_needed(budget):
    found = meter(budget)
    for wanted in every_choice(found):
        done = ()
        for at, knob in enumerate(found.knobs):
            count = clamped(found, done, wanted[at])
            later = found.most[at + 1 :]
            possible = [s for s in knob.steps if s >= wanted[at] and found.is_met((*done, s, *later))]
            assert count == possible[0]
            done = (*done, count)
        assert found.is_met(done)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_clamping_keeps_to_the_steps(step):
    found = meter("macs=0.4", knobs(3, 9, step=step))
    for wanted in itertools.product(range(9), repeat=3):
        done = ()
        for at, knob in enumerate(found.knobs):
            done = (*done, clamped(found, done, wanted[at]))
            assert done[-1] in knob.steps
        assert found.is_met(done)


def test_clamping_meets_the_budget_where_cost_is_not_monotone():
    found = knobs(2, 8)

    def bumpy(counts):  # a latency table: one channel past a multiple of four costs a whole step more
        left = [8 - counts[k.names[0]] for k in found]
        return float(sum(4 * -(-n // 4) + n % 3 for n in left)), 20.0

    for limit, wanted in itertools.product((0.5, 0.6, 0.8), itertools.product(range(8), repeat=2)):
        rough = Meter(parse_budget({"macs": limit}), found, bumpy)
        done = ()
        for at in range(2):
            done = (*done, clamped(rough, done, wanted[at]))
        assert rough.is_met(done)


@pytest.mark.parametrize("budget", BUDGETS)
def test_what_is_brought_to_a_budget_meets_it_and_no_milder_choice_on_its_way_does(budget):
    found = meter(budget)
    for wanted in every_choice(found):
        choice = brought(found, wanted, found.limit)
        assert found.is_met(choice)
        met = found.is_met(wanted)
        assert all((a <= b) if met else (a >= b) for a, b in zip(choice, wanted, strict=True))
        for at, count in enumerate(choice):
            start = 0 if met else wanted[at]
            assert start <= count <= (wanted[at] if met else found.knobs[at].top)
        milder = tuple(max(0 if met else w, c - 1) for c, w in zip(choice, wanted, strict=True))
        assert milder == choice or not found.is_met(milder)


def test_a_goal_below_the_budget_is_met_too():
    found = meter("macs=0.6")
    for goal in (0.3, 0.45, 0.6):
        assert found.share(brought(found, (2, 2, 2), goal)) <= goal


def test_the_way_to_a_choice_turns_one_knob_one_step_at_a_time_and_all_alike_far():
    found = knobs(4, 24, 3)
    choice = (21, 9, 0, 15)
    path = way(meter(found=found), choice)
    assert (path[0], path[-1], len(path)) == ((0, 0, 0, 0), choice, 1 + 7 + 3 + 5)
    for before, after in itertools.pairwise(path):
        assert sorted(b - a for a, b in zip(before, after, strict=True)) == [0, 0, 0, 3]
    for number, at in enumerate(path):
        for count, last in zip(at, choice, strict=True):
            assert abs(count - last * number / (len(path) - 1)) <= 3


def test_uniform_gives_knobs_of_one_size_nearly_one_count():
    found = meter("macs=0.5", knobs(4, 40), lambda k: linear_cost(k, (1.0, 1.0, 1.0, 1.0)))
    assert uniform(found) == (20, 20, 20, 20)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_first_is_the_first(low, extra, turn):
    high = low + extra
    turn = min(max(turn, low), high)
    assert first(low, high, lambda i: i >= turn) == turn


def test_a_budget_out_of_reach_says_how_far_it_gets():
    found = meter("macs=0.01", knobs(3, 6, top=2))
    with pytest.raises(InputError, match=r"out of reach: .* 0\.\d+ of the dense model is left; raise max_ratio="):
        found.check()


def test_limits_are_shares_of_the_dense_model():
    assert meter("macs=0.3").limit == 0.3
    dense = meter().ruler({"g0": 0, "g1": 0, "g2": 0})[1]
    assert meter("macs<=50").limit == 50 / dense
    assert meter("sparsity=0.8").limit == pytest.approx(0.2)


def test_a_ratio_turns_a_knob_to_the_largest_step_below():
    knob = Knob(("g",), 10, (0, 4, 8))
    assert [knob.at(r) for r in (0.0, 0.34, 0.35, 0.4, 0.7499, 0.75, 0.99)] == [0, 0, 4, 4, 4, 8, 8]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 10, 3, stride=2, padding=1), nn.Conv2d(10, 8, 1), nn.Linear(8, 5)

    def forward(self, x):
        return self.c(self.b(self.a(x).relu()).relu().mean((2, 3)))


def space(kind="filter", **how):
    torch.manual_seed(0)
    graph = prunus.trace(Net(), torch.randn(2, 3, 16, 12))
    return find_space(graph, granularity(kind), criterion("l2"), **how)


def test_knobs_obey_floors_rounding_ceiling_and_protection():
    assert [knob.steps for knob in space().knobs] == [tuple(range(9)), tuple(range(7))]
    assert [knob.steps for knob in space(round_to=4).knobs] == [(0, 2, 6), (0, 4)]
    assert [knob.steps for knob in space(max_ratio=0.5).knobs] == [tuple(range(6)), tuple(range(5))]
    assert [knob.names for knob in space(protect=["a"]).knobs] == [("b",)]
    assert [knob.size for knob in space("element").knobs] == [270, 80, 40]
    assert space("element", max_ratio=0.9).knobs[0].steps == range(244)


def test_groups_that_must_stay_equal_share_a_knob():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.c(self.a(x)) + self.c(self.b(x))

    found = find_space(prunus.trace(Heads(), torch.randn(2, 4)), granularity("filter"), criterion("l2"))
    assert len(found.knobs) == 1
    assert found.knobs[0].names == found.graph.equal[0] if found.graph.equal else len(found.graph.groups) == 1


def test_features_are_those_of_the_layer_that_makes_the_units():
    found = space()
    assert features_of(found.graph, found.targets) == {
        "a": (10.0, 3.0, 16.0, 12.0, 2.0, 3.0),
        "b": (8.0, 10.0, 8.0, 6.0, 1.0, 1.0),
    }
    weights = space("element")
    assert features_of(weights.graph, weights.targets)["c.weight"] == (40.0, 8.0, 1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("kind", ["2:4", "layer"])
def test_granularities_without_ratios_are_refused(kind):
    with pytest.raises(InputError, match="leaves no ratios to search"):
        space(kind)


def test_where_nothing_may_go_the_error_says_why():
    with pytest.raises(InputError, match=r"no target can lose a unit with max_ratio=0\.1 and round_to=8"):
        space(max_ratio=0.1, round_to=8)
