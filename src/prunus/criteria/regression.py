"""Regression: a unit matters as much as its readers' outputs change without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunus.errors import InputError
from prunus.granularity import Piece
from prunus.solvers.channels import lasso_order, thinet_order
from prunus.solvers.layers import kind_of, matrix_of, weight_of
from prunus.statistics import Statistics, wide


@dataclass(frozen=True)
class Reconstruction:
    """Score the λ at which the unit's LASSO coefficient first becomes zero, of each weight that reads it.

    The unit's coefficient scales all that it gives to the outputs, whatever its number of inputs: kernel positions,
    places of a flattened map, its channels in every group of a grouped convolution.
    Source: He et al. 2017 (arXiv:1707.06168), section 3.1; `prunus.solvers.channels.lasso_order`.
    """

    name: ClassVar[str] = "reconstruction"
    needs: ClassVar[frozenset[str]] = frozenset({"gram"})
    reads: ClassVar[str] = "readers"

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,)."""
        return lasso_order(*unit_problem(piece, statistics)).to(wide(piece.tensor).dtype)


@dataclass(frozen=True)
class ThiNet:
    """Score the step at which the greedy choice removes the unit, of each weight that reads it, divided by U.

    Each step removes the unit with which the outputs lose least of all removed so far. Units: as in `Reconstruction`.
    Source: Luo et al. 2017 (arXiv:1707.06342), algorithm 1; `prunus.solvers.channels.thinet_order`.
    """

    name: ClassVar[str] = "thinet"
    needs: ClassVar[frozenset[str]] = frozenset({"gram"})
    reads: ClassVar[str] = "readers"

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,), from 0, gone first, up to 1."""
        order = thinet_order(*unit_problem(piece, statistics))
        return (order / max(1, len(order))).to(wide(piece.tensor).dtype)


def unit_problem(piece: Piece, statistics: Statistics) -> tuple[Tensor, Tensor]:
    """Return the weight as (O, U, K), K inputs of each unit, and the Gram matrix of these inputs, (U·K, U·K).

    The groups of a convolution become blocks on the diagonal: none reads what another does. Inputs that belong to no
    unit always stay, so they are left out.
    """
    grams = statistics.sum("gram", piece.param)
    layer = statistics.layers[piece.param]
    if layer.kind == "conv_transpose":
        raise InputError(f"{piece.param}: the inputs of a transposed convolution overlap in its outputs; exclude it")
    matrices = matrix_of(piece.tensor.detach(), kind_of(layer), groups=layer.groups)
    numbers = torch.arange(grams.shape[0] * grams.shape[1], device=grams.device).reshape(len(grams), 1, -1)
    columns = piece.table(weight_of(numbers.expand(matrices.shape), kind_of(layer), layer.shape))
    inside = torch.stack([row.unique() for row in columns])
    at = inside.flatten()
    weight, gram = _diagonal(matrices), _diagonal(grams)
    return weight[:, at].reshape(-1, *inside.shape), gram[at][:, at]


def _diagonal(blocks: Tensor) -> Tensor:
    """Lay (groups, R, C) along the diagonal of one matrix, (groups · R, groups · C)."""
    if len(blocks) == 1:
        return blocks[0]
    joined: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return joined
