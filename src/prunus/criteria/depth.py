"""Depth: a residual block matters as much as it changes what it hands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunus.granularity import JoinedUnits, Piece
from prunus.statistics import Statistics, wide


@dataclass(frozen=True)
class BlockInfluence:
    """Score 1 − mean cos(x, y) of a residual block's input x and output y, over the tokens of the calibration data.

    For granularity `layer`. Source: Men et al. 2024, ShortGPT (arXiv:2403.03853), equation 1.
    """

    name: ClassVar[str] = "block_influence"
    needs: ClassVar[frozenset[str]] = frozenset({"block_influence"})
    reads: ClassVar[str] = "blocks"

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,), from 0, nothing changes, to 2."""
        units = piece.part.units
        assert isinstance(units, JoinedUnits)
        turned = torch.stack([statistics.mean("block_influence", block.name) for block in units.blocks])
        return turned.to(wide(piece.tensor))
