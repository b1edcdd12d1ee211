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
        return self.budget.allowed(self.ruler(expanded(self.knobs, self.whole))[1])

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
                f"{self.share(self.most):.3f} of the dense model is left; raise max_ratio="
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


def brought(meter: Meter, choice: Sequence[int], goal: float) -> Choice:
    """Return a choice in the same direction that leaves as much as a goal allows, and meets the budget.

    goal: a share of the dense model; at the meter's limit or above, the budget alone decides. One that leaves more
    goes, with every knob by the same share of its way, towards the most; one that leaves less goes back towards the
    whole model.
    """
    places = [knob.place(count) for knob, count in zip(meter.knobs, choice, strict=True)]
    lasts = [len(knob.steps) - 1 for knob in meter.knobs]
    grain = 2 * max(len(knob.steps) for knob in meter.knobs)

    def between(starts: Sequence[int], ends: Sequence[int], part: int) -> Choice:
        moved = (start + math.ceil((end - start) * part / grain) for start, end in zip(starts, ends, strict=True))
        return tuple(knob.steps[place] for knob, place in zip(meter.knobs, moved, strict=True))

    def holds(found: Choice) -> bool:
        return meter.is_met(found) and (goal >= meter.limit or meter.share(found) <= goal)

    nothing = [0] * len(places)
    starts, ends = (nothing, places) if holds(between(places, places, 0)) else (places, lasts)
    return between(starts, ends, first(0, grain, lambda part: holds(between(starts, ends, part))))


def way(meter: Meter, choice: Sequence[int]) -> list[Choice]:
    """Return the choices from the whole model to this one, one step of one knob at a time, all knobs alike far."""
    places = [knob.place(count) for knob, count in zip(meter.knobs, choice, strict=True)]
    turns = sorted(((step - 0.5) / last, t) for t, last in enumerate(places) for step in range(1, last + 1))
    at, found = [0] * len(places), [meter.whole]
    for _, t in turns:
        at[t] += 1
        found.append(tuple(knob.steps[place] for knob, place in zip(meter.knobs, at, strict=True)))
    return found


def uniform(meter: Meter) -> Choice:
    """Return the mildest choice of one ratio for all knobs that meets the budget, as far as their steps allow."""
    return brought(meter, [knob.at(0.5) for knob in meter.knobs], meter.limit)
