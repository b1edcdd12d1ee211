"""Times, fractions over time, and what a policy refuses."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunus.errors import InputError, NameNotFound
from prunus.schedules import AGP, Iterative, OneShot, Policy, Schedule, Time, schedule
from prunus.schedules.policy import policy
from prunus.schedules.reading import with_whole_times


@pytest.mark.parametrize(
    ("spec", "value", "unit"),
    [
        ("2ep", 2, "epoch"),
        ("2 epochs", 2, "epoch"),
        ("1 epoch", 1, "epoch"),
        ("0.5ep", 0.5, "epoch"),
        (3, 3, "epoch"),
        ("300st", 300, "step"),
        ("300 steps", 300, "step"),
        (Time(1, "step"), 1, "step"),
    ],
)
def test_times_are_read(spec: object, value: float, unit: str) -> None:
    time = Time.parse(spec)
    assert (time.value, time.unit) == (value, unit)
    assert Time.parse(str(time)) == time


@pytest.mark.parametrize("spec", ["2", "ep", "2 weeks", "-1ep", -1, 1.5, True, None, "1.5 steps", "nan ep", ""])
def test_wrong_times_are_refused_by_name(spec: object) -> None:
    with pytest.raises(InputError, match=r"schedule.begin|whole steps"):
        Time.parse(spec, "schedule.begin")


def test_agp_is_the_papers_formula() -> None:
    """s_t = s_f + (s_i - s_f)(1 - t/n)^3 with s_i = .1, s_f = .9, n = 4, held between its steps."""
    agp = AGP(final=0.9, initial=0.1, begin="2ep", end="10ep", every="2ep")
    wanted = [0, 0, 0.1, 0.1, 0.5625, 0.5625, 0.8, 0.8, 0.8875, 0.8875, 0.9, 0.9]
    assert [agp.fraction(now) for now in range(12)] == pytest.approx(wanted, abs=1e-12)
    assert agp.fraction(10) == 0.9
    assert agp.last == 10


def test_agp_hits_its_goal_at_its_last_step_even_when_every_does_not_divide_the_span() -> None:
    agp = AGP(final=0.7, begin=0, end=7, every=3)
    assert (agp.last, agp.fraction(5), agp.fraction(6)) == (6, 0.7 - 0.7 / 8, 0.7)


@pytest.mark.parametrize(("begin", "end", "wanted"), [(0, 1, [0.0, 0.5, 0.5]), (1, 1, [0.0, 0.5, 0.5])])
def test_agp_spans_of_one_and_of_none_are_legal(begin: int, end: int, wanted: list[float]) -> None:
    agp = AGP(final=0.5, begin=begin, end=end)
    assert [agp.fraction(now) for now in range(3)] == wanted


def test_iterative_rounds_are_linear_or_geometric() -> None:
    linear = Iterative(final=0.8, rounds=4, begin=1, every=2)
    assert [linear.fraction(now) for now in range(9)] == pytest.approx([0, 0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.8, 0.8])
    geometric = Iterative(final=0.875, rounds=3, progression="geometric")
    assert [geometric.fraction(now) for now in range(4)] == pytest.approx([0.5, 0.75, 0.875, 0.875])
    assert (linear.last, geometric.last, linear.fraction(7)) == (7, 2, 0.8)


def test_geometric_rounds_start_from_the_initial_fraction() -> None:
    """From .5 to .875 in two rounds: the kept share halves each time."""
    geometric = Iterative(final=0.875, rounds=2, initial=0.5, progression="geometric")
    assert geometric.fraction(0) == pytest.approx(0.75)


def test_one_shot_happens_once() -> None:
    shot = OneShot(0.6, begin="5 steps")
    assert [shot.fraction(now) for now in (0, 4, 5, 6)] == [0, 0, 0.6, 0.6]
    assert (shot.unit, shot.last) == ("step", 5)
    assert OneShot().fraction(0) == 1.0


FRACTIONS = st.floats(0.01, 0.99)
COUNTS = st.integers(0, 30)
SCHEDULES = st.one_of(
    st.builds(lambda f, b: OneShot(f, b), FRACTIONS, COUNTS),
    st.builds(
        lambda f, i, b, n, e: AGP(final=f, initial=i * f, begin=b, end=b + n, every=e),
        FRACTIONS, st.floats(0, 1), COUNTS, COUNTS, st.integers(1, 9),
    ),
    st.builds(
        lambda f, i, r, b, e, p: Iterative(f, r, b, e, i * f, p),
        FRACTIONS, st.floats(0, 1), st.integers(1, 9), COUNTS, st.integers(1, 9),
        st.sampled_from(["linear", "geometric"]),
    ),
)  # fmt: skip


@given(SCHEDULES)
def test_every_schedule_rises_from_nothing_to_exactly_its_goal(made: OneShot | AGP | Iterative) -> None:
    assert isinstance(made, Schedule)
    values = [made.fraction(now) for now in range(made.last + 3)]
    begin = int(made.begin.value)  # type: ignore[union-attr]
    assert all(a <= b + 1e-12 for a, b in pairwise(values))
    assert values[:begin] == [0.0] * begin
    assert values[made.last :] == [made.final] * 3
    assert eval(repr(made)) == made


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ({"final": 0.5}, InputError, "schedule.kind is missing"),
        ({"kind": "agpp", "final": 0.5}, NameNotFound, "did you mean agp"),
        ({"kind": "agp", "finale": 0.5, "end": 3}, NameNotFound, "did you mean final"),
        ({"kind": "agp", "final": 0.5}, InputError, "schedule.end is missing"),
        ({"kind": "agp", "final": 0.5, "begin": "1ep", "end": "30 steps"}, InputError, "mixes epochs and steps"),
        ({"kind": "agp", "final": 0.5, "begin": 4, "end": 3}, InputError, "before schedule.begin"),
        ({"kind": "agp", "final": 0.5, "end": 3, "every": 0}, InputError, "schedule.every is 0"),
        ({"kind": "agp", "final": 0.5, "end": 3, "initial": 0.6}, InputError, "above schedule.final"),
        ({"kind": "one_shot", "final": 1.0}, InputError, "schedule.final is 1.0"),
        ({"kind": "one_shot", "final": "40%"}, InputError, "did you mean 0.4"),
        ({"kind": "one_shot", "final": 0}, InputError, "prunes nothing"),
        ({"kind": "iterative", "final": 0.5, "rounds": 0}, InputError, "schedule.rounds is 0"),
        ({"kind": "iterative", "final": 0.5, "progression": "geometrical"}, NameNotFound, "did you mean geometric"),
        ({"kind": "iterative", "progression": "geometric"}, InputError, "schedule.final is missing"),
        ("agp", InputError, "schedule is 'agp'"),
    ],
)
def test_wrong_schedules_are_refused(spec: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        schedule(spec)  # type: ignore[arg-type]


def test_defaults_take_the_unit_of_what_is_given() -> None:
    agp = schedule({"kind": "agp", "final": 0.5, "end": "300 steps"})
    assert isinstance(agp, AGP)
    assert (agp.begin, agp.every, agp.unit) == (Time(0, "step"), Time(1, "step"), "step")


def test_times_inside_an_epoch_become_steps() -> None:
    agp = AGP(final=0.5, begin="0.5ep", end="2ep", every="0.25ep")
    made = with_whole_times(agp, 100)
    assert (made.unit, made.last, made.fraction(49), made.fraction(200)) == ("step", 200, 0.0, 0.5)
    with pytest.raises(InputError, match=r"schedule.begin is 0.5ep, inside an epoch"):
        with_whole_times(agp, None)
    whole = AGP(final=0.5, end="2ep")
    assert with_whole_times(whole, 100) is whole


SHOT = {"kind": "one_shot", "final": 0.5}


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"granularity": "filters"}, NameNotFound, "^granularity: .*did you mean filter"),
        ({"criterion": "l3l"}, NameNotFound, "^criterion: "),
        ({"allocation": "unifrom"}, NameNotFound, "^allocation: .*did you mean uniform"),
        ({"round_to": 0}, InputError, "^round_to is 0"),
        ({"round_to": 8, "granularity": "element"}, InputError, "element is not rounded"),
        ({"name": ""}, InputError, "^name is ''"),
        ({"schedule": {"kind": "one_shot"}}, InputError, "schedule.final is missing"),
        ({"granularity": "2:4", "schedule": {"kind": "agp", "final": 0.5, "end": 3}}, InputError, "never gradual"),
        ({"granularity": "2:4", "schedule": {"kind": "one_shot", "final": 0.6}}, InputError, "2:4 prunes 0.5"),
        ({"granularty": "filter"}, NameNotFound, "did you mean granularity"),
    ],
)
def test_wrong_policies_are_refused_by_the_fields_name(
    changes: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        policy({"granularity": "filter", "schedule": SHOT, **changes})


def test_policies_need_granularity_and_schedule_and_are_frozen() -> None:
    with pytest.raises(InputError, match="granularity is missing"):
        policy({"schedule": SHOT})
    made = policy({"granularity": "2:4", "schedule": {"kind": "one_shot"}})
    assert eval(repr(made)) == made == policy(made)
    with pytest.raises(AttributeError):
        made.round_to = 4  # type: ignore[misc]


def test_a_policy_of_the_users_own_schedule() -> None:
    class Halfway:
        final, unit, last = 0.5, "step", 10

        def fraction(self, now: int) -> float:
            return 0.5 * (now >= 10)

    assert Policy(granularity="element", schedule=Halfway()).schedule.fraction(10) == 0.5  # type: ignore[union-attr]
