"""Statistics of what a weight reads: squares, zeros, moments and Gram matrices of its inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.statistics.kinds import OfInputs, register, wide
from prunus.statistics.layers import Layer


def _per_column(layer: Layer, x: Tensor) -> Tensor:
    return torch.zeros(layer.groups, layer.num_columns, dtype=torch.float64, device=x.device)


def _add_squares(total: Tensor, layer: Layer, x: Tensor) -> float:
    rows = 0
    for columns in layer.columns(wide(x)):
        total += columns.square().sum(dim=1, dtype=torch.float64)
        rows += columns.shape[1]
    return rows


def _gram(layer: Layer, x: Tensor) -> Tensor:
    return torch.zeros(layer.groups, layer.num_columns, layer.num_columns, dtype=wide(x).dtype, device=x.device)


def _add_gram(total: Tensor, layer: Layer, x: Tensor) -> float:
    rows = 0
    for columns in layer.columns(wide(x)):
        total.baddbmm_(columns.mT, columns)
        rows += columns.shape[1]
    return rows


def _per_channel(layer: Layer, x: Tensor) -> Tensor:
    return torch.zeros(layer.channels(x).shape[1], dtype=torch.float64, device=x.device)


def _add_zeros(total: Tensor, layer: Layer, x: Tensor) -> float:
    rows = layer.channels(x)
    total += (rows == 0).sum(dim=0)
    return len(rows)


def _add_sums(total: Tensor, layer: Layer, x: Tensor) -> float:
    rows = layer.channels(wide(x))
    total += rows.sum(dim=0, dtype=torch.float64)
    return len(rows)


def _two_per_channel(layer: Layer, x: Tensor) -> Tensor:
    return torch.zeros(2, layer.channels(x).shape[1], dtype=torch.float64, device=x.device)


def _add_moments(total: Tensor, layer: Layer, x: Tensor) -> float:
    rows = layer.channels(x).double()
    total[0] += rows.sum(dim=0)
    total[1] += rows.square().sum(dim=0)
    return len(rows)


def input_square() -> OfInputs:
    """Σ x², (groups, columns): the diagonal of the Gram matrix, in float64; count: rows."""
    return OfInputs(_per_column, _add_squares)


def gram() -> OfInputs:
    """Σ x xᵀ, (groups, columns, columns), in float32 (float64 for float64 models); count: rows.

    Memory: groups · columns² numbers; layers that read the same tensor hold one between them.
    """
    return OfInputs(_gram, _add_gram)


def input_zeros() -> OfInputs:
    """How often each input channel is exactly 0, (C,); count: rows."""
    return OfInputs(_per_channel, _add_zeros)


def input_mean() -> OfInputs:
    """Σ x of each input channel, (C,); count: rows."""
    return OfInputs(_per_channel, _add_sums)


def input_moments() -> OfInputs:
    """Σ x and Σ x² of each input channel, (2, C), in float64; count: rows."""
    return OfInputs(_two_per_channel, _add_moments)


for _factory in (input_square, gram, input_zeros, input_mean, input_moments):
    register(_factory.__name__, _factory)
