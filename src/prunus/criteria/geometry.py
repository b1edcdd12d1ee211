"""Geometry: a unit that lies amid the others can be replaced by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunus.errors import InputError
from prunus.granularity import Piece
from prunus.statistics import Statistics, wide

CHUNK = 1 << 22
"""How many distances are held at a time."""


@dataclass(frozen=True)
class GeometricMedian:
    """Score Σ_v ‖u − v‖₂ over the other units v of the tensor: the units nearest to all others go first.

    Time U² · E for U units of E weights, by definition, U · log U for single weights; memory bounded whatever U.
    Source: He et al. 2019, FPGM (arXiv:1811.00250), equation 6.
    """

    name: ClassVar[str] = "fpgm"
    needs: ClassVar[frozenset[str]] = frozenset()

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,); raises InputError for residual blocks, whose weights are not of one kind."""
        if piece.part.role == "block":
            raise InputError(
                f"{piece.target}: between residual blocks of different weights there is no distance; choose l2 or "
                "block_influence"
            )
        table = wide(piece.table())
        if table.shape[1] == 1:
            return _apart(table[:, 0])
        step = max(1, CHUNK // max(1, len(table)))
        # Not by way of products: their rounding is as large as the distances of units that are nearly equal.
        exact = "donot_use_mm_for_euclid_dist"
        # Not a list of sums: each would lie where the distances before it were, and the next need a place of their own.
        scores = table.new_empty(len(table))
        for start in range(0, len(table), step):
            rows = slice(start, start + step)
            scores[rows] = torch.cdist(table[rows], table, compute_mode=exact).sum(dim=1)
        return scores


def _apart(values: Tensor) -> Tensor:
    """Return Σ_v |u − v| of each number, (U,), by running sums over the sorted ones; equal numbers score the same."""
    distinct, places, counts = torch.unique(values.double(), return_inverse=True, return_counts=True)
    below, mass = counts.cumsum(0), (distinct * counts).cumsum(0)
    sums: Tensor = distinct * (2 * below - below[-1]) - 2 * mass + mass[-1]
    return sums.clamp(min=0)[places].to(values.dtype)
