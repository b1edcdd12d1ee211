"""First order: what the loss's gradient says of removing a unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from prunus.granularity import Piece
from prunus.statistics import Statistics, wide


@dataclass(frozen=True)
class Taylor:
    """Score (Σ_unit g·w)² per mini-batch, averaged over mini-batches.

    The squared first-order estimate of how much the loss changes when the unit is set to zero. The sum is taken over
    the unit before it is squared: its weights go together. Memory: one number per unit.
    Source: Molchanov et al. 2019 (arXiv:1906.10771), equation 8.
    """

    name: ClassVar[str] = "taylor"
    needs: ClassVar[frozenset[str]] = frozenset({"taylor"})

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,)."""
        return statistics.mean("taylor", piece.param, piece.target)


@dataclass(frozen=True)
class TaylorActivation:
    """Score |mean z·∂L/∂z| of the unit's activations per sample, averaged over samples, over the layer's L2 norm.

    z: what the weights read that read the unit, after activation and pooling; where several weights read it, each
        gives a score, which are joined as a group's parts are. Memory: one number per unit.
    Source: Molchanov et al. 2016 (arXiv:1611.06440), section 2.2.
    """

    name: ClassVar[str] = "taylor_activation"
    needs: ClassVar[frozenset[str]] = frozenset({"activation_taylor"})
    reads: ClassVar[str] = "readers"

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,), of L2 norm 1, or zeros."""
        found = statistics.mean("activation_taylor", piece.param, piece.target)
        norm = found.norm()
        return found / norm if norm > 0 else found


@dataclass(frozen=True)
class Snip:
    """Score |g·w|, g the mean gradient, summed over the unit.

    The paper divides by the sum over the whole net, which changes no order: scores of all layers compare as they are.
    Memory: one float32 per weight.
    Source: Lee et al. 2019 (arXiv:1810.02340).
    """

    name: ClassVar[str] = "snip"
    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,), not normalised."""
        return piece.table((statistics.mean("gradient", piece.param) * wide(piece.tensor)).abs()).sum(dim=1)
