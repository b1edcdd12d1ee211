"""Magnitude: a unit matters as much as its weights are large."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from prunus.errors import InputError, NameNotFound
from prunus.granularity import Piece
from prunus.statistics import Statistics, wide


@dataclass(frozen=True)
class Magnitude:
    """Score (Σ|w|ᵖ / n)^(1/p) of each unit, or without the division by its n elements for `reduce="sum"`.

    p: at least 1, or inf for the largest |w|. A single weight scores |w| for every p.
    `mean` compares short units fairly with full ones; within units of one size both give the same order.
    Source: LeCun's baseline, Han et al. 2015 (arXiv:1506.02626) per weight, Li et al. 2017
        (arXiv:1608.08710) per filter.
    """

    p: float = 1
    reduce: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        if isinstance(self.p, bool) or not isinstance(self.p, (int, float)) or not self.p >= 1:
            raise InputError(f"p of the norm is {self.p!r}; a number of at least 1, or inf, is wanted")
        if self.reduce not in ("mean", "sum"):
            raise NameNotFound.of("reduction of magnitude", str(self.reduce), ("mean", "sum"))

    @property
    def name(self) -> str:
        """`l1`, `l2`, `linf` or `lp(p)`."""
        short = {1: "l1", 2: "l2", math.inf: "linf"}.get(self.p)
        option = "" if self.reduce == "mean" else "reduce=sum"
        if short is None:
            return f"lp({self.p}, {option})" if option else f"lp({self.p})"
        return f"{short}({option})" if option else short

    @property
    def needs(self) -> frozenset[str]:
        """Nothing: the weights suffice."""
        return frozenset()

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return the norms, (U,); the largest |w| is divided out first: no power over- or underflows."""
        sizes, counts = wide(piece.table()).abs(), piece.counts
        if sizes.shape[1] == 1:
            return sizes.squeeze(1)
        if sizes.shape[1] == 0:
            return sizes.new_zeros(sizes.shape[0])
        if self.p == 1:
            return sizes.sum(dim=1) / self._divisor(counts, sizes)
        largest = sizes.amax(dim=1)
        if self.p == math.inf:
            return largest
        scale = torch.where(largest > 0, largest, torch.ones_like(largest))
        total = (sizes / scale.unsqueeze(1)).pow(self.p).sum(dim=1) / self._divisor(counts, sizes)
        return largest * total.pow(1 / self.p)

    def _divisor(self, counts: Tensor, like: Tensor) -> Tensor | int:
        return counts.clamp(min=1).to(like.dtype) if self.reduce == "mean" else 1


def l1(reduce: Literal["mean", "sum"] = "mean") -> Magnitude:
    """Magnitude with p = 1."""
    return Magnitude(1, reduce)


def l2(reduce: Literal["mean", "sum"] = "mean") -> Magnitude:
    """Magnitude with p = 2."""
    return Magnitude(2, reduce)


def linf(reduce: Literal["mean", "sum"] = "mean") -> Magnitude:
    """Magnitude with p = inf."""
    return Magnitude(math.inf, reduce)


def lp(p: float, reduce: Literal["mean", "sum"] = "mean") -> Magnitude:
    """Magnitude with any p >= 1."""
    return Magnitude(p, reduce)
