"""When a cell may stop early: its difference to the dense model is known, and what was seen is like the whole."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.sensitivity.cells import Cell
from prunus.sensitivity.ready import Ready
from prunus.sensitivity.store import Metrics


@dataclass
class Gap:
    """The difference of a cell's judged metric to the dense model's, example by example."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, differences: Tensor) -> None:
        """Count the differences of more examples, (N,)."""
        self.count += differences.numel()
        self.total += float(differences.sum())
        self.squares += float(differences.square().sum())

    @property
    def half_width(self) -> float:
        """Half of the 95 % confidence interval of the mean difference.

        By the normal approximation, and at least 3 / n, the bound for what was not seen in n examples.
        """
        variance = max(0.0, self.squares / self.count - (self.total / self.count) ** 2)
        return max(1.96 * math.sqrt(variance / self.count), 3 / self.count)


class Census:
    """How many examples there are of each class, and how many the dense model has right."""

    def __init__(self) -> None:
        self._classes, self._right = Counter[int](), Counter[int]()

    def add(self, target: Tensor, right: Tensor) -> None:
        """Count more examples. target: (N, ...) classes. right: (N,), 1 where the judged metric counts them."""
        for counter, kinds in ((self._classes, target), (self._right, right)):
            found, counts = torch.unique(kinds.long(), return_counts=True)
            counter.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))

    @property
    def total(self) -> int:
        """Return how many were counted."""
        return self._right.total()

    def is_like(self, whole: Census) -> bool:
        """Tell whether this may be a random part of the whole.

        Data that is sorted by class is not, nor is data that the dense model finds easier at first.
        """
        return _is_like(self._classes, whole._classes) and _is_like(self._right, whole._right)


def _is_like(part: Counter[int], whole: Counter[int]) -> bool:
    """Pearson's chi-squared lies within four of its deviations."""
    share = part.total() / whole.total()
    distance = sum((part[kind] - share * count) ** 2 / (share * count) for kind, count in whole.items())
    freedom = len(whole) - 1
    return distance <= freedom + 4 * math.sqrt(2 * freedom)


class Stopping:
    """Says which cells of a pass may stop.

    width: half of the interval's, at most. whole: the census of all data.
    """

    def __init__(self, ready: Ready, width: float, whole: Census) -> None:
        self._ready, self._width, self._whole = ready, width, whole
        self._gaps: dict[Cell, Gap] = {}
        self._known: dict[Cell, int] = {}
        self._stopped: dict[Cell, int] = {}
        self._census = Census()

    @property
    def seen(self) -> int:
        """Return how many examples were seen."""
        return self._census.total

    def see(self, output: Any, target: Any) -> None:
        """See what the dense model makes of the next batch."""
        self._right = self._ready.examples(output, target)
        self._census.add(target, self._right)
        self._is_fair = self._census.is_like(self._whole)

    def may_stop(self, cell: Cell, output: Any, target: Any) -> bool:
        """See what a cell makes of this batch, and tell whether that was enough."""
        gap = self._gaps.setdefault(cell, Gap())
        gap.add(self._ready.examples(output, target) - self._right)
        if gap.half_width <= self._width:
            self._known.setdefault(cell, gap.count)
            if self._is_fair:
                self._stopped[cell] = gap.count
        return cell in self._stopped

    def warn(self) -> None:
        """Say where the order of the data has kept most cells from stopping half as late."""
        late = [cell for cell, known in self._known.items() if self._stopped.get(cell, self.seen) > 2 * known]
        if 2 * len(late) > len(self._gaps):
            warnings.warn(
                "approximate: the data comes in an order, and how it begins is unlike the whole, so that cells stop "
                "late; shuffle it",
                stacklevel=2,
            )


@dataclass
class Counted:
    """A ready evaluation that takes the census of its data besides."""

    ready: Ready
    census: Census

    def __call__(self, model: nn.Module) -> Metrics:
        """Return the metrics."""
        tally = self.ready.tally()
        assert tally is not None

        def visit(output: Any, target: Any, size: int) -> bool:
            tally.add(output, target, size)
            self.census.add(target, self.ready.examples(output, target))
            return False

        self.ready.each(model, visit)
        return tally.result()
