"""When a policy of Distiller's acts, as schedules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prunus.errors import InputError
from prunus.schedules import AGP, Listed, OneShot, Repeated, Schedule


@dataclass(frozen=True, kw_only=True)
class Window:
    """From `starting_epoch` up to, not including, `ending_epoch`, at every `frequency`-th; or at the `epochs` listed.

    origin: the epoch that training begins with; files that were meant for a resumed run start at 180, say.
    mini_batch_pruning_frequency: thresholds also act after every so many optimizer steps; 0 is never.
    Raises InputError for a window without an epoch.
    """

    starting_epoch: int = 0
    ending_epoch: int = 1
    frequency: int = 1
    epochs: Sequence[int] = ()
    origin: int = 0
    mini_batch_pruning_frequency: int = 0

    def __post_init__(self) -> None:
        if self.frequency < 1:
            raise InputError(f"frequency is {self.frequency}; a whole number of at least 1 is wanted")
        listed = sorted(set(self.epochs)) or range(self.starting_epoch, self.ending_epoch, self.frequency)
        if not listed:
            span = f"{self.starting_epoch} to {self.ending_epoch}"
            raise InputError(f"the window from epoch {span} is empty; ending_epoch is exclusive, raise it")
        if self.epochs and self.mini_batch_pruning_frequency:
            raise InputError("mini_batch_pruning_frequency acts all along; give starting_epoch and ending_epoch")
        if listed[0] < self.origin:
            raise InputError(f"epoch {listed[0]} lies before the origin, {self.origin}; lower origin")

    @property
    def times(self) -> tuple[int, ...]:
        """The epochs at which it acts, counted from the origin."""
        listed = sorted(set(self.epochs)) or range(self.starting_epoch, self.ending_epoch, self.frequency)
        return tuple(epoch - self.origin for epoch in listed)

    def once(self, final: float | None = None) -> OneShot:
        """At the first epoch: what is pruned by rank stays the lowest."""
        return OneShot(final, begin=self.times[0])

    def gradual(self, initial: float, final: float) -> Schedule:
        """By AGP's ramp; its last epoch hits `final`, and a single epoch is legal."""
        first, last = self.times[0], self.times[-1]
        if not self.epochs:
            return AGP(final, begin=first, end=last, every=self.frequency, initial=initial)
        return self.listed(lambda time: AGP(final, begin=first, end=last, initial=initial).fraction(time))

    def repeated(self, initial: float | None = None) -> Schedule:
        """At every epoch anew; initial: progress at the first one, from which it grows evenly to 1."""
        first, last = self.times[0], self.times[-1]
        if self.epochs:
            return self.listed(Repeated(begin=first, end=last, initial=initial).fraction)
        steps = self.mini_batch_pruning_frequency or None
        return Repeated(begin=first, end=last, every=self.frequency, initial=initial, steps=steps)

    def listed(self, fraction: Callable[[int], float]) -> Listed:
        """At every epoch, with a fraction of its own."""
        return Listed(self.times, [fraction(time) for time in self.times])
