"""How far pruning has got at a time: one-shot, iterative, gradual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, get_args, runtime_checkable

from prunus.errors import InputError, NameNotFound
from prunus.granularity.checks import check_size
from prunus.schedules.checks import as_time, check_fractions, check_times, goal_of, whole
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
        check_times(self, "begin")
        check_fractions(self, 0.0)

    @property
    def unit(self) -> Unit:
        """Epochs or steps."""
        return as_time(self.begin).unit

    @property
    def last(self) -> int:
        """When it happens."""
        return whole(self.begin)

    def fraction(self, now: int) -> float:
        """Return 0, and from `begin` on the final fraction."""
        return goal_of(self.final) if now >= self.last else 0.0


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
        check_times(self, "begin", "every")
        check_fractions(self, self.initial)
        check_size("schedule.rounds", self.rounds)
        if self.progression not in get_args(Progression):
            raise NameNotFound.of("progression", str(self.progression), get_args(Progression))
        if self.progression == "geometric" and self.final is None:
            raise InputError(
                "schedule.final is missing; a geometric progression needs the fraction it ends at, so it leads to no "
                "target: give progression: linear for that"
            )

    @property
    def unit(self) -> Unit:
        """Epochs or steps."""
        return as_time(self.begin).unit

    @property
    def last(self) -> int:
        """When the last round begins."""
        return whole(self.begin) + (self.rounds - 1) * whole(self.every)

    def fraction(self, now: int) -> float:
        """Return the fraction of the latest round that has begun."""
        number = min((now - whole(self.begin)) // whole(self.every) + 1, self.rounds)
        final = goal_of(self.final)
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
        check_times(self, "begin", "end", "every")
        check_fractions(self, self.initial)
        if as_time(self.end).value < as_time(self.begin).value:
            raise InputError(f"schedule.end is {self.end}, before schedule.begin, {self.begin}; swap them")

    @property
    def unit(self) -> Unit:
        """Epochs or steps."""
        return as_time(self.begin).unit

    @property
    def last(self) -> int:
        """When `final` is hit."""
        return whole(self.begin) + self._num_intervals * whole(self.every)

    @property
    def _num_intervals(self) -> int:
        return (whole(self.end) - whole(self.begin)) // whole(self.every)

    def fraction(self, now: int) -> float:
        """Return the fraction of the latest step of the ramp."""
        final = goal_of(self.final)
        if now < whole(self.begin):
            return 0.0
        if now >= self.last:
            return final
        left = 1.0 - (now - whole(self.begin)) // whole(self.every) / self._num_intervals
        return final + (self.initial - final) * left**3
