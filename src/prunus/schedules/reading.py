"""Schedules by their kinds, as YAML gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeAlias, get_args

from prunus.errors import InputError, NameNotFound
from prunus.schedules.kinds import AGP, Iterative, OneShot, Schedule
from prunus.schedules.repeating import BaiduRNN, Listed, Repeated
from prunus.schedules.time import Time

_Known: TypeAlias = OneShot | Iterative | AGP | Repeated | Listed | BaiduRNN
_KINDS: dict[str, type[_Known]] = {kind.kind: kind for kind in (OneShot, Iterative, AGP, Repeated, Listed, BaiduRNN)}
_TIMES = ("begin", "ramp", "end", "every")


def schedule(spec: Mapping[str, Any] | Schedule) -> Schedule:
    """Read a schedule.

    spec: `{kind: agp, final: 0.5, begin: 0ep, end: 3ep, every: 1ep}`, `{kind: iterative, rounds: 3,
    final: 0.8}`,
        `{kind: one_shot, final: 0.5}`, or an object with final, unit, last and fraction().
    Raises NameNotFound for an unknown kind or key, InputError for a missing or wrong value.
    """
    if not isinstance(spec, Mapping):
        if isinstance(spec, type) or not isinstance(spec, Schedule):
            raise InputError(f"schedule is {spec!r}; a mapping such as {{kind: one_shot, final: 0.5}} is wanted")
        return spec
    kind = spec.get("kind")
    if kind is None:
        raise InputError(f"schedule.kind is missing; choose one of {', '.join(_KINDS)}")
    if kind not in _KINDS:
        raise NameNotFound.of("kind of schedule", str(kind), _KINDS)
    known = [field.name for field in fields(_KINDS[kind])]
    for key in spec:
        if key != "kind" and key not in known:
            raise NameNotFound.of(f"key of schedule {kind}", str(key), known)
    return _KINDS[kind](**{key: value for key, value in spec.items() if key != "kind"})


def with_whole_times(schedule: Schedule, steps_per_epoch: int | None) -> Schedule:
    """Turn a schedule with fractions of epochs into one of steps.

    Raises InputError where steps_per_epoch is not known.
    """
    times = {name: value for name in _TIMES if isinstance(value := getattr(schedule, name, None), Time)}
    split = next((name for name, time in times.items() if not time.is_whole), None)
    if split is None or not isinstance(schedule, get_args(_Known)):
        return schedule
    if steps_per_epoch is None:
        raise InputError(
            f"schedule.{split} is {times[split]}, inside an epoch; say how many steps one has: steps_per_epoch="
        )
    steps = {name: time.in_steps(steps_per_epoch) for name, time in times.items()}
    if "every" in steps and steps["every"].value < 1:
        steps["every"] = Time(1, "step")
    in_steps: Schedule = replace(schedule, **steps)
    return in_steps
