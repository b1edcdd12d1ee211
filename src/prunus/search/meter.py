"""What a choice costs, whether it meets the budget, and the mildest change that makes it do so."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prunus.allocation import Budget
from prunus.errors import InputError
from prunus.search.space import Choice, Counts, Knob, expanded

Ruler = Callable[[Counts], tuple[float, float]]
"""From units that go by target to the budget's quantity, of what is left and of the dense model."""


@dataclass(frozen=True)
class Meter:
    """A budget over knobs.

    ruler: any function of counts; `prunus.allocation.rulers.ruler_of` makes them for traced models.
    """

    budget: Budget
    knobs: tuple[Knob, ...]
    ruler: Ruler

    def value(self, choice: Sequence[int]) -> float:
        """Return the budget's quantity of what is left."""
        return self.ruler(expanded(self.knobs, choice))[0]

    def share(self, choice: Sequence[int]) -> float:
        """Return what is left as a share of the dense model, 1 for all; the density where the budget is a sparsity."""
        value, dense = self.ruler(expanded(self.knobs, choice))
        return 1 - value if self.budget.quantity == "sparsity" else value / dense

    def is_met(self, choice: Sequence[int]) -> bool:
        """Tell whether a choice meets the budget."""
        return self.budget.is_met(*self.ruler(expanded(self.knobs, choice)))

    @property
    def limit(self) -> float:
        """The share that may be left."""
        if self.budget.quantity == "sparsity":
            return 1 - self.budget.limit
        dense = self.ruler(expanded(self.knobs, self.whole))[1]
        return self.budget.limit if self.budget.relative else self.budget.limit / dense

    @property
    def whole(self) -> Choice:
        """The choice that prunes nothing."""
        return (0,) * len(self.knobs)

    @property
    def most(self) -> Choice:
        """The choice that prunes all that may go."""
        return tuple(knob.top for knob in self.knobs)

    def check(self) -> None:
        """Raise InputError where the budget cannot be met even by all that may go."""
        if not self.is_met(self.most):
            raise InputError(
                f"budget {self.budget} is out of reach: with as much as may go from each target, "
                f"{self.share(self.most):.3f} of the dense model is left; raise most="
            )


def first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """Return the smallest index in [low, high] where `holds`, which it does at `high` and, once it does, further on.

    Where it comes and goes, as measured latency may, an index where it holds.
    """
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return high


def clamped(meter: Meter, done: Sequence[int], wanted: int) -> int:
    """Return the smallest step from `wanted` on with which the budget can still be met, all later knobs at their most.

    done: the choices of the knobs before. This is algorithm 1 of AMC (arXiv:1802.03494).
    """
    knob, later = meter.knobs[len(done)], meter.most[len(done) + 1 :]
    index = first(knob.place(wanted), len(knob.steps) - 1, lambda i: meter.is_met((*done, knob.steps[i], *later)))
    return knob.steps[index]


def repaired(meter: Meter, choice: Sequence[int]) -> Choice:
    """Return a choice that meets the budget: each knob as far on the way to its most as is needed, and no further.

    One that meets it already is returned as it is.
    """
    places = [knob.place(count) for knob, count in zip(meter.knobs, choice, strict=True)]
    grain = max(len(knob.steps) for knob in meter.knobs)

    def moved(part: int) -> Choice:
        shares = [place + math.ceil((len(k.steps) - 1 - place) * part / grain) for k, place in _with(meter, places)]
        return tuple(knob.steps[place] for knob, place in _with(meter, shares))

    if meter.is_met(moved(0)):
        return moved(0)
    return moved(first(1, grain, lambda part: meter.is_met(moved(part))))


def uniform(meter: Meter) -> Choice:
    """Return the mildest choice of one ratio for all knobs that meets the budget, repaired where rounding needs it."""
    grain = 1000
    index = first(0, grain - 1, lambda i: meter.is_met([knob.at(i / grain) for knob in meter.knobs]) or i == grain - 1)
    return repaired(meter, [min(knob.top, knob.at(index / grain)) for knob in meter.knobs])


def _with(meter: Meter, places: Sequence[int]) -> list[tuple[Knob, int]]:
    return list(zip(meter.knobs, places, strict=True))
