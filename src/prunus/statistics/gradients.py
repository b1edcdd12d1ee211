"""Statistics of the loss's gradient: first-order Taylor terms, mean gradients, the empirical Fisher diagonal."""

from __future__ import annotations

from torch import Tensor

from prunus.granularity import Piece
from prunus.statistics.kinds import OfGradients, register, wide


def _taylor(piece: Piece, gradient: Tensor) -> Tensor:
    return piece.table(wide(gradient) * wide(piece.tensor)).sum(dim=1).square()


def _itself(piece: Piece, gradient: Tensor) -> Tensor:
    return wide(gradient)


def _square(piece: Piece, gradient: Tensor) -> Tensor:
    return wide(gradient).square()


def taylor() -> OfGradients:
    """Σ over mini-batches of (Σ_unit g·w)², (U,)."""
    return OfGradients(_taylor, by_unit=True)


def gradient() -> OfGradients:
    """Σ over mini-batches of the gradient, of the weight's shape."""
    return OfGradients(_itself)


def fisher() -> OfGradients:
    """Σ over *samples* of g², of the weight's shape: the diagonal of the empirical Fisher matrix.

    Squares of batch gradients would be wrong by the cross terms of the samples.
    """
    return OfGradients(_square, by_sample=True)


for _factory in (taylor, gradient, fisher):
    register(_factory.__name__, _factory)
