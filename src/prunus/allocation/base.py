"""What an allocator is, and what it sees of a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from prunus.allocation.counts import num_kept, with_floors
from prunus.granularity import Target
from prunus.granularity.checks import check_size
from prunus.granularity.units import MemberUnits
from prunus.runtimes import step_for

RoundTo = int | Literal["auto"]
"""What kept counts become multiples of: a number, or what the kernels of runtimes step by."""


def auto_step(target: Target) -> int:
    """Return what a target's kept number should be a multiple of: `step_for` where convolutions make its units, else 1.

    Linear layers have no steps, and heads are few.
    """
    for part in target.parts:
        if part.role == "out" and len(part.units.shape) > 2 and isinstance(part.units, MemberUnits):
            return step_for(target.num_units, part.units.index.shape[1])
    return 1


@dataclass(frozen=True, eq=False)
class ScoredTarget:
    """A target's scores with what its count must respect.

    scores: (U,) float, low = prune.
    weight: cost of one unit in the currency of the fraction: elements per unit for weights, on average, 1 for coupled
        groups. sizes: (U,) int64, the cost of each where they differ, as at the edge of a tensor that vectors do not
        divide; else None.
    minimum: units that are always kept; 1 for structured targets, so that no layer is emptied; what a router chooses.
    round_to: the kept number is rounded up to a multiple of this.
    fixed: n:m's number of pruned units, whatever the fraction; else None.
    names: the names that patterns may match, the target's own first.
    pruned: (U,) bool, what is pruned so far; nothing by default.
    measured: what the allocator's `measure` found at the first pruning.
    shapes: of the scored tensors with two dims and more; outputs, inputs, kernel.
    """

    scores: Tensor
    weight: float = 1
    minimum: int = 0
    round_to: int = 1
    fixed: int | None = None
    names: tuple[str, ...] = ()
    pruned: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    measured: Mapping[str, float] = field(default_factory=dict)
    shapes: tuple[tuple[int, ...], ...] = ()
    sizes: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.pruned.numel():
            object.__setattr__(self, "pruned", torch.zeros(self.scores.numel(), dtype=torch.bool))
        check_size("round_to", self.round_to)

    @classmethod
    def of(
        cls, target: Target, scores: Tensor, *, round_to: RoundTo = 1, max_ratio: float = 1.0, **known: Any
    ) -> ScoredTarget:
        """Read weight, minimum, fixed number, names and shapes off the target.

        A target is structured when a unit is a whole slice of every tensor (filters, channels, coupled
        groups): one unit then stays, or the group's minimum. round_to counts for these only, the kept number
        of single weights is not rounded; `auto` asks `auto_step`. max_ratio: the largest share of it that may go.
        known: `pruned` and `measured`, where there is something to know.
        """
        units = target.parts[0].units
        structured = target.group is not None or units.is_slice
        weight = 1.0 if target.group is not None else units.shape.numel() / max(1, units.num_units)
        names = (target.name, *(part.param for part in target.scored if part.param != target.name))
        floor = target.minimum if structured else 0
        step = 1 if not structured else auto_step(target) if round_to == "auto" else round_to
        floor = max(floor, num_kept(max_ratio, target.num_units))
        shapes = tuple(tuple(part.units.shape) for part in target.scored if len(part.units.shape) > 1)
        sizes = None if structured or units.fixed is not None or not units.is_ragged else units.counts
        return cls(scores, weight, floor, step, units.fixed, names, shapes=shapes, sizes=sizes, **known)

    @property
    def num_units(self) -> int:
        """U."""
        return self.scores.numel()

    @property
    def costs(self) -> Tensor:
        """(U,), the cost of each unit."""
        return torch.tensor(self.weight).expand(self.num_units) if self.sizes is None else self.sizes

    def spent(self, pruned: int) -> float:
        """Return what the `pruned` units with the lowest scores cost together."""
        if self.sizes is None:
            return pruned * self.weight
        return int(self._spent[pruned - 1]) if pruned else 0

    @cached_property
    def _spent(self) -> Tensor:
        assert self.sizes is not None
        return self.sizes[self.scores.argsort(stable=True)].cumsum(0)

    def bounded(self, pruned: int) -> int:
        """Return the number to prune once floors, rounding and n:m are met."""
        if self.fixed is not None:
            return self.fixed
        return with_floors(pruned, self.num_units, minimum=self.minimum, round_to=self.round_to)


@runtime_checkable
class Allocator(Protocol):
    """How much from each target.

    An attribute `is_absolute` that is True says that it compares scores with numbers in the criterion's own unit.
    """

    @property
    def name(self) -> str:
        """The spelling that `allocator()` reads back."""

    @property
    def uses_progress(self) -> bool:
        """What `fraction` means: False, the share of everything to prune; True, how far along the schedule
        is, 0 to 1.

        Where the user gave each layer its own number, a schedule only says how much of it is due: hand over
        its fraction divided by its final one.
        """

    def counts(self, targets: Mapping[str, ScoredTarget], fraction: float) -> dict[str, int]:
        """Return the units to prune per target, in the order given; floors and rounding met."""


@runtime_checkable
class Measuring(Protocol):
    """What an allocator has besides that reads the weights once, at its policy's first pruning."""

    def measure(self, weights: Tensor) -> dict[str, float]:
        """Return numbers to go by from then on, saved with the policy's state.

        weights: the elements of a target's scored tensors, (n,), float32 or float64.
        """


@runtime_checkable
class Regrowing(Protocol):
    """What an allocator has besides that chooses the units itself, and may bring pruned ones back."""

    def chosen(self, targets: Mapping[str, ScoredTarget], fraction: float) -> dict[str, Tensor]:
        """Return the units to prune per target, (U,) bool."""
