"""Schedules that act more than once at one fraction, or at times and fractions of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Protocol, runtime_checkable

from prunus.allocation import check_ratio
from prunus.errors import InputError
from prunus.schedules.checks import as_time, check_fractions, check_times, goal_of, whole
from prunus.schedules.time import Time, Unit


@runtime_checkable
class Repeating(Protocol):
    """What a schedule has besides where it acts again although the fraction has not risen."""

    def acts(self, now: int) -> bool:
        """Tell whether it acts at this time."""

    def acts_within(self, epoch: int, steps: int) -> bool:
        """Tell whether it also acts after so many optimizer steps, within an epoch that it does not count in."""


@dataclass(frozen=True)
class Repeated:
    """The same again at begin, begin + every, … up to `end`: training pulls weights below a threshold, or above it.

    initial: the fraction at the beginning, from which it grows by equal steps; by default `final` all the time.
    steps: of a schedule in epochs: it also acts after every so many optimizer steps, from `begin` until epoch `end` is
        over.
    For the allocations `threshold`, `sensitivity` and `splicing`, which choose anew from the weights as they are.
    """

    final: float | None = None
    begin: Time | str | int | None = None
    end: Time | str | int | None = None
    every: Time | str | int | None = None
    initial: float | None = None
    steps: int | None = None
    kind: ClassVar[str] = "repeated"

    def __post_init__(self) -> None:
        _check_span(self, "begin", "end", "every")
        if self.steps is not None:
            whole_number = isinstance(self.steps, int) and not isinstance(self.steps, bool) and self.steps >= 1
            if not whole_number or self.unit == "step":
                raise InputError(f"schedule.steps is {self.steps!r}; a whole number is wanted, and the times in epochs")
        check_fractions(self, self.initial or 0.0)

    @property
    def unit(self) -> Unit:
        """Epochs or steps."""
        return as_time(self.begin).unit

    @property
    def last(self) -> int:
        """When it acts for the last time; with `steps`, the end of that epoch."""
        return _last(self) + (self.steps is not None)

    def acts(self, now: int) -> bool:
        """Tell whether it acts at this time."""
        return whole(self.begin) <= now <= _last(self) and (now - whole(self.begin)) % whole(self.every) == 0

    def acts_within(self, epoch: int, steps: int) -> bool:
        """Tell whether it also acts after so many steps."""
        return self.steps is not None and whole(self.begin) <= epoch < self.last and steps % self.steps == 0

    def fraction(self, now: int) -> float:
        """Return the fraction of the latest action."""
        final = goal_of(self.final)
        if now < whole(self.begin):
            return 0.0
        if self.initial is None or now >= _last(self):
            return final
        done = (now - whole(self.begin)) // whole(self.every) * whole(self.every)
        return self.initial + (final - self.initial) * done / (_last(self) - whole(self.begin))


@dataclass(frozen=True)
class Listed:
    """The fractions of a list at the times of another; with `fractions` left out, all of it at each time.

    times: rising. fractions: never falling, each in [0, 1); or, where the allocation says how much, progress in [0, 1].
    """

    times: Sequence[Time | str | int] = ()
    fractions: Sequence[float] | None = None
    kind: ClassVar[str] = "listed"

    def __post_init__(self) -> None:
        times = tuple(Time.parse(time, "schedule.times") for time in self.times)
        if not times or any(a.value >= b.value for a, b in pairwise(times)):
            raise InputError(f"schedule.times are {self.times!r}; at least one is wanted, each above the last")
        if len({time.unit for time in times}) > 1 or not all(time.is_whole for time in times):
            raise InputError(f"schedule.times are {self.times!r}; whole epochs are wanted, or steps, not both")
        object.__setattr__(self, "times", times)
        if self.fractions is not None:
            object.__setattr__(self, "fractions", self._checked(tuple(self.fractions)))

    def _checked(self, fractions: tuple[float, ...]) -> tuple[float, ...]:
        checked = tuple(1.0 if value == 1 else check_ratio("schedule.fractions", value) for value in fractions)
        if len(checked) != len(self.times) or list(checked) != sorted(checked) or not checked[-1]:
            raise InputError(
                f"schedule.fractions are {self.fractions!r}; one per time is wanted, none below the one before"
            )
        return checked

    @property
    def final(self) -> float | None:
        """The last fraction; None where it is 1, which is progress."""
        return None if self.fractions is None or self.fractions[-1] == 1 else self.fractions[-1]

    @property
    def unit(self) -> Unit:
        """Epochs or steps."""
        return as_time(self.times[0]).unit

    @property
    def last(self) -> int:
        """The last time."""
        return whole(self.times[-1])

    def acts(self, now: int) -> bool:
        """Tell whether it acts at this time."""
        return now in [whole(time) for time in self.times]

    def acts_within(self, epoch: int, steps: int) -> bool:
        """At listed times only."""
        return False

    def fraction(self, now: int) -> float:
        """Return the fraction of the latest time that has come."""
        come = sum(whole(time) <= now for time in self.times)
        if not come:
            return 0.0
        return 1.0 if self.fractions is None else self.fractions[come - 1]


@dataclass(frozen=True)
class BaiduRNN:
    """A threshold that grows with one slope up to `ramp`, then `steepness` times as fast, up to `end`, included.

    f_t = (t - t_0 + 1) / F before t_r = `ramp`, then (t_r - t_0 + 1 + k·(t - t_r + 1)) / F, with k = `steepness` and F
    such that the last action is at 1: the allocation says which threshold that is.
    Source: Narang et al. 2017, arXiv:1704.05119, algorithm 1; k from 1.5 to 2 there.
    """

    begin: Time | str | int | None = None
    ramp: Time | str | int | None = None
    end: Time | str | int | None = None
    every: Time | str | int | None = None
    steepness: float = 1.5
    kind: ClassVar[str] = "baidu_rnn"
    final: ClassVar[None] = None

    def __post_init__(self) -> None:
        _check_span(self, "begin", "ramp", "end", "every")
        if not whole(self.begin) <= whole(self.ramp) <= whole(self.end):
            raise InputError(f"schedule.ramp is {self.ramp}; a time from {self.begin} to {self.end} is wanted")
        steep = self.steepness
        if isinstance(steep, bool) or not isinstance(steep, (int, float)) or not 0 < steep < float("inf"):
            raise InputError(f"schedule.steepness is {steep!r}; a number above 0 is wanted, such as 1.5")

    @property
    def unit(self) -> Unit:
        """Epochs or steps."""
        return as_time(self.begin).unit

    @property
    def last(self) -> int:
        """When the threshold is reached."""
        return _last(self)

    def fraction(self, now: int) -> float:
        """Return the share of the threshold at the latest action."""
        begin, every = whole(self.begin), whole(self.every)
        if now < begin:
            return 0.0
        acted = begin + (min(now, self.last) - begin) // every * every
        return self._height(acted) / self.height

    @property
    def height(self) -> float:
        """The threshold at the end when the first slope is 1 per epoch or step: F."""
        return self._height(self.last)

    def _height(self, time: int) -> float:
        begin, ramp = whole(self.begin), whole(self.ramp)
        return time - begin + 1 if time < ramp else ramp - begin + 1 + self.steepness * (time - ramp + 1)


def _check_span(schedule: Repeated | BaiduRNN, *names: str) -> None:
    if schedule.end is None:
        raise InputError("schedule.end is missing; write the time of the last action, such as end: 3ep")
    check_times(schedule, *names)
    if as_time(schedule.end).value < as_time(schedule.begin).value:
        raise InputError(f"schedule.end is {schedule.end}, before schedule.begin, {schedule.begin}; swap them")


def _last(schedule: Repeated | BaiduRNN) -> int:
    begin, every = whole(schedule.begin), whole(schedule.every)
    return begin + (whole(schedule.end) - begin) // every * every
