"""Fluctuation: what hardly varies can be replaced by its mean, which a bias takes up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from prunus.criteria.base import normalised
from prunus.granularity import Piece
from prunus.statistics import Statistics, wide


@dataclass(frozen=True)
class Fluctuation:
    """Score Var(x_j) · ‖W_:,j‖² summed over the unit's inputs j, standardised within the layer.

    W is each weight that reads the unit, x_j the channel that its column multiplies. The scores of a layer have mean 1
    and deviation 1, so that `global` ranks all layers together as the paper does: dividing by the mean changes nothing.
    With the solver `bias` the mean of what is pruned goes into the reader's bias.
    Source: An et al. 2024, FLAP (arXiv:2312.11983), equations 4 and 5.
    """

    name: ClassVar[str] = "flap"
    needs: ClassVar[frozenset[str]] = frozenset({"input_moments"})
    reads: ClassVar[str] = "readers"

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,)."""
        mean, square = statistics.mean("input_moments", piece.param)
        variance = statistics.layers[piece.param].per_input((square - mean.square()).clamp(min=0))
        weight = wide(piece.tensor)
        energy = piece.table(weight.square() * variance.to(weight.dtype)).sum(dim=1)
        return 1 + normalised(energy, "gaussian")
