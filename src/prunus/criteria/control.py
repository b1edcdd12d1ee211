"""Random scores: the control that every other criterion has to beat."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.errors import InputError
from prunus.granularity import Piece
from prunus.statistics import Statistics, wide


@dataclass(frozen=True)
class Random:
    """Score each unit by a uniform number in [0, 1), drawn from the seed and the tensor's name alone.

    The same seed gives the same scores on every device, rank and machine, whatever else draws random numbers.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise InputError(f"seed of the random criterion is {self.seed!r}; a whole number is wanted")

    @property
    def name(self) -> str:
        """`random(seed=seed)`."""
        return f"random(seed={self.seed})"

    @property
    def needs(self) -> frozenset[str]:
        """Nothing."""
        return frozenset()

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,) float32 (float64 for float64 weights)."""
        digest = hashlib.sha256(f"{self.seed}:{piece.param}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        drawn = torch.rand(piece.counts.numel(), generator=generator, dtype=wide(piece.tensor).dtype)
        return drawn.to(piece.tensor.device)
