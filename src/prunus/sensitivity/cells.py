"""What is measured: a target at a level, and which of its units that prunes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, UntypedStorage, nn

from prunus.allocation import ScoredTarget, num_pruned
from prunus.axes import unwrapped
from prunus.criteria import Criterion, score_target
from prunus.granularity import Target
from prunus.plans import named_state
from prunus.sensitivity.contents import Content, View, copied, place_of
from prunus.statistics import Statistics


@dataclass(frozen=True)
class Cell:
    """One target at one level; no target is the dense model."""

    target: Target | None
    level: float

    @property
    def params(self) -> list[str]:
        """The tensors that it prunes."""
        return [part.param for part in self.target.parts] if self.target else []

    @property
    def key(self) -> tuple[str, float]:
        """How the store knows it."""
        return (self.target.name if self.target else "", self.level)

    @property
    def where(self) -> str:
        """How a sentence says it."""
        return f"at {self.level:g} of {self.target.name}" if self.target else "on the dense model"

    def __str__(self) -> str:
        return f"{self.target.name} {self.level:g}" if self.target else "dense"


@dataclass
class Cutter:
    """Says what a cell prunes, by a criterion that has seen what it needs."""

    model: nn.Module
    criterion: Criterion
    seen: Statistics
    _scored: tuple[Target, ScoredTarget] | None = field(default=None, repr=False)

    def tensors(self) -> dict[str, Tensor]:
        """Return the model's tensors by name."""
        return named_state(unwrapped(self.model))

    def pruned(self, cell: Cell) -> Tensor:
        """Return the pruned units, (U,) bool."""
        assert cell.target is not None
        scored = self.scored(cell.target)
        count = scored.bounded(num_pruned(cell.level, cell.target.num_units))
        return cell.target.parts[0].units.pick(scored.scores, count)

    def scored(self, target: Target) -> ScoredTarget:
        """Return a target with its scores."""
        if self._scored is None or self._scored[0] is not target:
            scores = score_target(target, self.tensors(), self.criterion, self.seen)
            self._scored = (target, ScoredTarget.of(target, scores))
        return self._scored[1]

    def prune_(self, cell: Cell) -> None:
        """Zero a cell's units in the model."""
        if cell.target is None:
            return
        tensors, pruned = self.tensors(), self.pruned(cell)
        with torch.no_grad():
            for part in cell.target.parts:
                _zero_(tensors[part.param], part.units.scatter(pruned.to(tensors[part.param].device)))

    def storages(self, cell: Cell) -> dict[int, UntypedStorage]:
        """Return pruned copies of the storages that a cell prunes, by place."""
        assert cell.target is not None
        tensors, pruned = self.tensors(), self.pruned(cell)
        copies: dict[int, UntypedStorage] = {}
        for part in cell.target.parts:
            tensor = tensors[part.param].detach()
            copy = copies.setdefault(place_of(tensor), copied(tensor.untyped_storage()))
            _zero_(View.of(tensor, Content()).on(copy), part.units.scatter(pruned.to(tensor.device)))
        return copies

    def places(self, target: Target) -> dict[int, str]:
        """Return the storages of a target, by place, with a name."""
        tensors = self.tensors()
        return {place_of(tensors[part.param]): part.param for part in target.parts}


def _zero_(tensor: Tensor, keep: Tensor) -> None:
    tensor.masked_fill_(~keep, 0)
