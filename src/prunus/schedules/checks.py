"""What the kinds of schedule ask of their times and fractions."""

from __future__ import annotations

from typing import Any

from prunus.allocation import check_ratio
from prunus.errors import InputError
from prunus.schedules.time import Time


def check_times(schedule: Any, *names: str) -> None:
    """Parse the times in place, fill in those left out, and refuse mixed units."""
    given = {name: getattr(schedule, name) for name in names if getattr(schedule, name) is not None}
    times = {name: Time.parse(value, f"schedule.{name}") for name, value in given.items()}
    units = {time.unit for time in times.values()}
    if len(units) > 1:
        said = ", ".join(f"{name} {time}" for name, time in times.items())
        raise InputError(f"schedule mixes epochs and steps ({said}); use one unit")
    unit = units.pop() if units else "epoch"
    for name in names:
        default = Time(1 if name == "every" else 0, unit)
        object.__setattr__(schedule, name, times.get(name, default))
    if "every" in names and as_time(schedule.every).value == 0:
        raise InputError("schedule.every is 0; a time of at least one step is wanted")


def check_fractions(schedule: Any, initial: float) -> None:
    """Raise InputError unless 0 <= initial <= final < 1, with 0 < final; final may be None."""
    check_ratio("schedule.initial", initial)
    if schedule.final is None:
        goal = 1.0
    else:
        goal = check_ratio("schedule.final", schedule.final)
        if goal == 0:
            raise InputError("schedule.final is 0, which prunes nothing; choose 0 < final < 1")
    if initial > goal:
        raise InputError(f"schedule.initial is {initial}, above schedule.final, {goal}; pruned weights stay pruned")


def as_time(value: Time | str | int | None) -> Time:
    """Return a time that `check_times` has parsed."""
    assert isinstance(value, Time), "times are parsed when a schedule is made"
    return value


def whole(value: Time | str | int | None) -> int:
    """Return it as a whole number of its unit."""
    return int(as_time(value).value)


def goal_of(final: float | None) -> float:
    """Return the fraction at the end: all of it, where something else says how much that is."""
    return 1.0 if final is None else final
