"""Outlier-weighed layers: those with more outstanding scores keep more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from prunus.allocation.base import ScoredTarget
from prunus.allocation.sharing import settled
from prunus.errors import InputError


@dataclass(frozen=True)
class Owl:
    """Spread the density over a band of width 2λ by each layer's share of outliers; the mean stays what is asked.

    Outliers are scores above m times the layer's mean; their shares D are scaled to [0, 1] and the density of a layer
    is 1 - S + 2λ · (D - mean D), the mean weighted by size. A layer is all targets of one block, as in the paper: those
    whose paths agree up to the last number in them (`layers.3.`), else the target alone. Meant for the criterion
    `wanda`.
    m: how many times the mean an outlier is. spread: λ.
    Source: Yin et al. 2023, arXiv:2310.05175, section 3.3, and the authors' code.
    """

    m: float = 5.0
    spread: float = 0.08
    name: ClassVar[str] = "owl"
    uses_progress: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, value, most in (("m", self.m, float("inf")), ("spread", self.spread, 0.5)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
                raise InputError(f"owl.{name} is {value!r}; a number from 0 to {most:g} is wanted")

    def counts(self, targets: Mapping[str, ScoredTarget], fraction: float) -> dict[str, int]:
        """Return the units to prune per target; n:m targets keep their fixed number."""
        outliers = self._outliers(targets)
        least, most = min(outliers.values(), default=0.0), max(outliers.values(), default=0.0)
        width = most - least or 1.0
        bases = {name: -2 * self.spread * (share - least) / width for name, share in outliers.items()}
        return settled(
            targets,
            fraction,
            lambda level: {name: level + base for name, base in bases.items()},
            low=0.0,
            high=1.0 + 2 * self.spread,
        )

    def _outliers(self, targets: Mapping[str, ScoredTarget]) -> dict[str, float]:
        """Return each target's share of outliers: that of its block."""
        blocks: dict[str, list[str]] = {}
        for name, target in targets.items():
            if target.num_units:
                blocks.setdefault(_block(name), []).append(name)
        found = dict.fromkeys(targets, 0.0)
        for names in blocks.values():
            scores = torch.cat([targets[name].scores.double().flatten() for name in names])
            found.update(dict.fromkeys(names, float((scores > self.m * scores.mean()).double().mean())))
        return found


def _block(name: str) -> str:
    """Return `layers.3` of `layers.3.attention.q.weight`; a name without a number inside is a block of its own."""
    path = name.removesuffix(".weight").split(".")
    numbered = [i for i, part in enumerate(path[:-1]) if part.isdecimal()]
    return ".".join(path[: numbered[-1] + 1]) if numbered else name
