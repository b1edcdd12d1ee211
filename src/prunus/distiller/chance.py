"""How many filters a coin per filter prunes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from prunus.allocation import ScoredTarget


@dataclass(frozen=True)
class Bernoulli:
    """Prune each unit with probability `fraction`, independently: a binomial number, of a target's random ranks.

    The coins come from the seed and the target's name, one per unit, so that the number never falls as the fraction
    grows. At least the target's minimum stays.
    """

    seed: int = 0
    name: ClassVar[str] = "bernoulli"
    uses_progress: ClassVar[bool] = False

    def counts(self, targets: Mapping[str, ScoredTarget], fraction: float) -> dict[str, int]:
        """Return the units to prune per target."""
        return {name: each.bounded(self._heads(name, each.num_units, fraction)) for name, each in targets.items()}

    def _heads(self, name: str, tosses: int, probability: float) -> int:
        digest = hashlib.sha256(f"bernoulli:{self.seed}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        return int((torch.rand(tosses, generator=generator, dtype=torch.float64) < probability).sum())
