"""Training: what the steps of a fine-tuning say of a weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from prunus.granularity import Piece
from prunus.statistics import Statistics


@dataclass(frozen=True)
class Movement:
    """Score Σ over optimizer steps of −lr·g·w, summed over the unit: weights that move towards 0 go first.

    A `PruningScheduler` gathers it while your loop trains; there is none in one-shot pruning. A pruned weight's score
    stays what it was. Memory: one float32 per weight, while the training lasts.
    Source: Sanh et al. 2020 (arXiv:2005.07683).
    """

    name: ClassVar[str] = "movement"
    needs: ClassVar[frozenset[str]] = frozenset({"movement"})

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,), of either sign."""
        return piece.table(statistics.sum("movement", piece.param)).sum(dim=1)
