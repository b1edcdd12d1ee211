"""Experts of a mixture: an expert matters as much as it adds to the tokens that it gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from prunus.granularity import MemberUnits, Piece
from prunus.statistics import Statistics, wide


@dataclass(frozen=True)
class RouterWeightedActivation:
    """Score mean of g_j(x) · ‖f_j(x)‖₂ over the tokens x that the router sends to expert j, g_j being its gate.

    For groups of the kind `expert`; an expert that gets no token scores 0, a unit of several experts their mean.
    Source: Lasby et al. 2025, REAP (arXiv:2510.13999).
    """

    name: ClassVar[str] = "reap"
    needs: ClassVar[frozenset[str]] = frozenset({"expert_activation"})
    reads: ClassVar[str] = "experts"

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,), the same for each stack of the experts' weights."""
        units = piece.part.units
        assert isinstance(units, MemberUnits)
        total, tokens = statistics.sum("expert_activation", piece.param)
        each = total / tokens.clamp(min=1)
        scores: Tensor = each[units.index.to(each.device)].mean(dim=1).to(wide(piece.tensor))
        return scores
