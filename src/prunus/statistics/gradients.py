"""Statistics of the loss's gradient: first-order Taylor terms, mean gradients, the empirical Fisher diagonal."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.granularity import Piece
from prunus.statistics.kinds import OfGradients, OfInputGradients, OfTraining, register, wide
from prunus.statistics.layers import Layer


def _taylor(piece: Piece, gradient: Tensor) -> Tensor:
    return piece.table(wide(gradient) * wide(piece.tensor)).sum(dim=1).square()


def _itself(piece: Piece, gradient: Tensor) -> Tensor:
    return wide(gradient)


def _square(piece: Piece, gradient: Tensor) -> Tensor:
    return wide(gradient).square()


def _activations(piece: Piece, layer: Layer, rows: Tensor, slopes: Tensor) -> Tensor:
    per_channel = (wide(slopes) * wide(rows)).sum(dim=0)
    owned = _channels_of(piece, layer, rows.shape[1])
    return (owned @ per_channel).abs() / (len(rows) * owned.sum(dim=1)).clamp(min=1)


def _channels_of(piece: Piece, layer: Layer, num_channels: int) -> Tensor:
    """Tell which input channels each unit of a reading weight owns, (U, C), 0 or 1."""
    numbers = torch.arange(num_channels, device=piece.tensor.device)
    each = piece.table(layer.per_input(numbers).expand(piece.tensor.shape))
    return torch.zeros(len(each), num_channels, dtype=wide(piece.tensor).dtype, device=each.device).scatter_(1, each, 1)


def _movement(weight: Tensor, gradient: Tensor, rate: float | Tensor) -> Tensor:
    return -rate * wide(gradient) * wide(weight)


def taylor() -> OfGradients:
    """Σ over mini-batches of (Σ_unit g·w)², (U,).

    Memory: one number per unit, and the gradient of a mini-batch while it is read.
    """
    return OfGradients(_taylor, by_unit=True)


def gradient() -> OfGradients:
    """Σ over mini-batches of the gradient, of the weight's shape.

    Memory: one float32 per weight (float64 for float64 weights), and the gradient of a mini-batch while it is read.
    """
    return OfGradients(_itself)


def fisher() -> OfGradients:
    """Σ over *samples* of g², of the weight's shape: the diagonal of the empirical Fisher matrix.

    Squares of batch gradients would be wrong by the cross terms of the samples. Memory: as `gradient`.
    """
    return OfGradients(_square, by_sample=True)


def activation_taylor() -> OfInputGradients:
    """Σ over samples of |mean_unit z·∂L/∂z|, (U,), z being what the weight reads of the unit: all its positions.

    Memory: one number per unit.
    """
    return OfInputGradients(_activations)


def movement() -> OfTraining:
    """Σ over optimizer steps of −lr·g·w, of the weight's shape.

    Memory: one float32 per weight (float64 for float64 weights) for as long as the training lasts.
    """
    return OfTraining(_movement)


for _factory in (taylor, gradient, fisher, activation_taylor, movement):
    register(_factory.__name__, _factory)
