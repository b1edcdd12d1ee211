"""First order: what the loss's gradient says of removing a unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from prunus.granularity import Piece
from prunus.statistics import Statistics


@dataclass(frozen=True)
class Taylor:
    """Score (Σ_unit g·w)² per mini-batch, averaged over mini-batches.

    The squared first-order estimate of how much the loss changes when the unit is set to zero. The sum is taken over
    the unit before it is squared: its weights go together.
    Source: Molchanov et al. 2019 (arXiv:1906.10771), equation 8.
    """

    name: ClassVar[str] = "taylor"
    needs: ClassVar[frozenset[str]] = frozenset({"taylor"})

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,)."""
        return statistics.mean("taylor", piece.param, piece.target)
