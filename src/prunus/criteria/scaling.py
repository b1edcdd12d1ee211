"""Scaling: a channel matters as much as the batch norm behind it lets through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from prunus.granularity import Piece
from prunus.statistics import Statistics, wide


@dataclass(frozen=True)
class BatchNormScale:
    """Score |γ| of the batch norm over the unit; several norms over one unit are joined as a group's parts are.

    It tells something only of models that were trained with an L1 penalty on γ.
    Source: Liu et al. 2017, Network Slimming (arXiv:1708.06519), section 3.
    """

    name: ClassVar[str] = "bn_scale"
    needs: ClassVar[frozenset[str]] = frozenset()
    reads: ClassVar[str] = "norms"

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return mean |γ| of each unit's positions, (U,)."""
        return wide(piece.table()).abs().sum(dim=1) / piece.counts.clamp(min=1)
