"""WoodFisher: single weights by the inverse of the empirical Fisher matrix, in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from prunus.errors import InputError
from prunus.granularity import Piece
from prunus.solvers.woodfisher import BlockFisher
from prunus.statistics import Calibration, OfModel, Statistics, register, wide
from prunus.statistics.curvature import Weights


def block_fisher(block: int = 50) -> OfModel:
    """Σ over samples of g gᵀ in blocks of each tensor's consecutive weights, (blocks, B, B), float64.

    One pass over the data, with a backward pass per sample.
    Memory: 8 · block bytes per weight that is asked for, beside one gradient.
    """

    def collect_(
        model: nn.Module, pieces: Sequence[Piece], calibration: Calibration, found: Statistics, name: str
    ) -> None:
        weights, number = Weights(model, pieces), 0
        fishers = [BlockFisher(w.numel(), block=block, device=w.device) for w in weights.tensors]
        for batch in calibration.read(weights.device):
            for sample in batch.samples():
                number += 1
                slopes = weights.gradients(model, sample, calibration)
                for fisher, slope in zip(fishers, slopes, strict=True):
                    fisher.add_(slope)
        weights.give_(found, name, [fisher.total for fisher in fishers], number)

    return OfModel(collect_)


register("block_fisher", block_fisher)


@dataclass(frozen=True)
class WoodFisher:
    """Score w² / (2 [F⁻¹]_qq), summed over the unit: what removing a weight costs when its block makes up for it.

    F = (1/N) Σ g gᵀ + damp·s·I over single samples' gradients, in blocks of `block` consecutive weights, s being the
    mean of the block's diagonal. The others are moved by `BlockFisher.update`, not by a criterion.
    Memory: 8 · block bytes per weight, 400 by default.
    Source: Singh and Alistarh 2020 (arXiv:2004.14340).
    """

    block: int = 50
    damp: float = 1e-7

    def __post_init__(self) -> None:
        if type(self.block) is not int or self.block < 1:
            raise InputError(f"block of woodfisher is {self.block!r}; a whole number of at least 1 is wanted")
        if isinstance(self.damp, bool) or not isinstance(self.damp, (int, float)) or not 0 < self.damp < float("inf"):
            raise InputError(f"damp of woodfisher is {self.damp!r}; a number above 0 is wanted")

    @property
    def name(self) -> str:
        """`woodfisher`, or with what differs from the default."""
        options = [f"block={self.block}"] * (self.block != 50) + [f"damp={self.damp}"] * (self.damp != 1e-7)
        return f"woodfisher({', '.join(options)})" if options else "woodfisher"

    @property
    def needs(self) -> frozenset[str]:
        """The sum of g gᵀ in blocks."""
        return frozenset({f"block_fisher(block={self.block})"})

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,)."""
        (need,) = self.needs
        total, number = statistics.sum(need, piece.param), statistics.count(need, piece.param)
        costs = BlockFisher.of(total, number, piece.tensor.numel(), self.damp).saliency(piece.tensor)
        return piece.table(costs).sum(dim=1).to(wide(piece.tensor).dtype)
