"""How far pruning has got at a time: one-shot, iterative, gradual."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

from prunus.allocation import check_ratio
from prunus.errors import InputError, NameNotFound
from prunus.schedules.time import Time, Unit

Progression = Literal["linear", "geometric"]


@runtime_checkable
class Schedule(Protocol):
    """When to prune how much; a user's class with these works where ours do."""

    @property
    def final(self) -> float | None:
        """The fraction at the end; None where allocation, n:m or a pattern says how much: it is progress."""

    @property
    def unit(self) -> Unit:
        """What `now` counts: epochs begun or optimizer steps done."""

    @property
    def last(self) -> int:
        """The time of the last change, in that unit."""

    def fraction(self, now: int) -> float:
        """Return the fraction in force at a time, never falling: 0 before the begin, the final one at the end."""


@dataclass(frozen=True)
class OneShot:
    """Everything at once, when `begin` comes."""

    final: float | None = None
    begin: Time | str | int = 0
    kind: ClassVar[str] = "one_shot"

    def __post_init__(self) -> None:
        _check_times(self, "begin")
        _check_fractions(self, 0.0)

    @property
    def unit(self) -> Unit:
        """Epochs or steps."""
        return _time(self.begin).unit

    @property
    def last(self) -> int:
        """When it happens."""
        return _whole(self.begin)

    def fraction(self, now: int) -> float:
        """Return 0, and from `begin` on the final fraction."""
        return _goal(self.final) if now >= self.last else 0.0


@dataclass(frozen=True)
class Iterative:
    """Rounds of pruning with fine-tuning between them, at begin, begin + every, …; the last one hits `final`.

    progression: `linear`, each round removes equally much; `geometric`, each round keeps the same share
    of what is
        left: after i of n rounds 1 - (1 - initial)·((1 - final) / (1 - initial))^(i/n) is gone (Han et
        al. 2015, Frankle & Carbin 2019 prune so).
    """

    final: float | None = None
    rounds: int = 1
    begin: Time | str | int | None = None
    every: Time | str | int | None = None
    initial: float = 0.0
    progression: Progression = "linear"
    kind: ClassVar[str] = "iterative"

    def __post_init__(self) -> None:
        _check_times(self, "begin", "every")
        _check_fractions(self, self.initial)
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int) or self.rounds < 1:
            raise InputError(f"schedule.rounds is {self.rounds!r}; a whole number of at least 1 is wanted")
        if self.progression not in get_args(Progression):
            raise NameNotFound.of("progression", str(self.progression), get_args(Progression))
        if self.progression == "geometric" and self.final is None:
            raise InputError("schedule.final is missing; a geometric progression needs the fraction it ends at")

    @property
    def unit(self) -> Unit:
        """Epochs or steps."""
        return _time(self.begin).unit

    @property
    def last(self) -> int:
        """When the last round begins."""
        return _whole(self.begin) + (self.rounds - 1) * _whole(self.every)

    def fraction(self, now: int) -> float:
        """Return the fraction of the latest round that has begun."""
        number = min((now - _whole(self.begin)) // _whole(self.every) + 1, self.rounds)
        final = _goal(self.final)
        if number < 1:
            return 0.0
        if number == self.rounds:
            return final
        share = number / self.rounds
        if self.progression == "linear":
            return self.initial + (final - self.initial) * share
        kept: float = (1.0 - self.initial) * ((1.0 - final) / (1.0 - self.initial)) ** share
        return 1.0 - kept


@dataclass(frozen=True)
class AGP:
    """Automated gradual pruning: fast at first, then ever slower, from `begin` to `end`, both included.

    s_t = s_f + (s_i - s_f)(1 - (t - t_0) / (n·Δt))³ at t = t_0, t_0 + Δt, …, t_0 + n·Δt, with Δt =
    `every` and n = (end - begin) // every. The last of these hits `final` exactly; a span of one, or of
    none, is legal.
    Source: Zhu & Gupta 2017, arXiv:1710.01878, eq. 1.
    """

    final: float | None = None
    begin: Time | str | int | None = None
    end: Time | str | int | None = None
    every: Time | str | int | None = None
    initial: float = 0.0
    kind: ClassVar[str] = "agp"

    def __post_init__(self) -> None:
        if self.end is None:
            raise InputError("schedule.end is missing; write the time of the last pruning step, such as end: 3ep")
        _check_times(self, "begin", "end", "every")
        _check_fractions(self, self.initial)
        if _time(self.end).value < _time(self.begin).value:
            raise InputError(f"schedule.end is {self.end}, before schedule.begin, {self.begin}; swap them")

    @property
    def unit(self) -> Unit:
        """Epochs or steps."""
        return _time(self.begin).unit

    @property
    def last(self) -> int:
        """When `final` is hit."""
        return _whole(self.begin) + self._num_intervals * _whole(self.every)

    @property
    def _num_intervals(self) -> int:
        return (_whole(self.end) - _whole(self.begin)) // _whole(self.every)

    def fraction(self, now: int) -> float:
        """Return the fraction of the latest step of the ramp."""
        final = _goal(self.final)
        if now < _whole(self.begin):
            return 0.0
        if now >= self.last:
            return final
        left = 1.0 - (now - _whole(self.begin)) // _whole(self.every) / self._num_intervals
        return final + (self.initial - final) * left**3


_KINDS: dict[str, type[OneShot | Iterative | AGP]] = {kind.kind: kind for kind in (OneShot, Iterative, AGP)}
_TIMES = ("begin", "end", "every")


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
    if split is None or not isinstance(schedule, (OneShot, Iterative, AGP)):
        return schedule
    if steps_per_epoch is None:
        raise InputError(
            f"schedule.{split} is {times[split]}, inside an epoch; say how many steps one has: steps_per_epoch="
        )
    steps = {name: time.in_steps(steps_per_epoch) for name, time in times.items()}
    if "every" in steps and steps["every"].value < 1:
        steps["every"] = Time(1, "step")
    return replace(schedule, **steps)  # type: ignore[arg-type]


def _check_times(schedule: OneShot | Iterative | AGP, *names: str) -> None:
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
    if "every" in names and _time(schedule.every).value == 0:  # type: ignore[union-attr]
        raise InputError("schedule.every is 0; a time of at least one step is wanted")


def _check_fractions(schedule: OneShot | Iterative | AGP, initial: float) -> None:
    check_ratio("schedule.initial", initial)
    if schedule.final is None:
        goal = 1.0
    else:
        goal = check_ratio("schedule.final", schedule.final)
        if goal == 0:
            raise InputError("schedule.final is 0, which prunes nothing; choose 0 < final < 1")
    if initial > goal:
        raise InputError(f"schedule.initial is {initial}, above schedule.final, {goal}; pruned weights stay pruned")


def _time(value: Time | str | int | None) -> Time:
    assert isinstance(value, Time), "times are parsed when a schedule is made"
    return value


def _whole(value: Time | str | int | None) -> int:
    return int(_time(value).value)


def _goal(final: float | None) -> float:
    return 1.0 if final is None else final
