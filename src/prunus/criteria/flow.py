"""Flow: what a unit lets through, of gradients (GraSP) or of a signal of ones (SynFlow)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from prunus.granularity import Piece
from prunus.statistics import Statistics, wide
from prunus.statistics.flow import synflow


@dataclass(frozen=True)
class Grasp:
    """Score w·(Hg), summed over the unit.

    To first order, setting the unit to zero changes the squared norm of the gradient by −2 w·(Hg): the lowest, where
    the norm grows most, go first. The paper's score is the negative of this, and it prunes the highest.
    Scores of all layers compare as they are. Memory: two float32 per weight while it is collected.
    Source: Wang et al. 2020 (arXiv:2002.07376), algorithm 1.
    """

    name: ClassVar[str] = "grasp"
    needs: ClassVar[frozenset[str]] = frozenset({"hessian_gradient"})

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,), of either sign."""
        return piece.table(statistics.mean("hessian_gradient", piece.param) * wide(piece.tensor)).sum(dim=1)


@dataclass(frozen=True)
class SynFlow:
    """Score each unit by how long it stays when the net is emptied round by round by its synaptic flow w·∂R/∂w.

    R = 1ᵀ Π|W| 1. Needs data for the shape of one input only, and no loss. rounds: how many take the density to a
    tenth; see `prunus.statistics.flow.synflow` for why one path serves every density.
    Units of a group are scored by all tensors that the granularity names, together.
    Source: Tanaka et al. 2020 (arXiv:2006.05467), algorithm 1.
    """

    rounds: int = 100

    def __post_init__(self) -> None:
        synflow(self.rounds)

    @property
    def name(self) -> str:
        """`synflow` or `synflow(rounds=…)`."""
        return "synflow" if self.rounds == 100 else f"synflow(rounds={self.rounds})"

    @property
    def needs(self) -> frozenset[str]:
        """The path, with its number of rounds."""
        return frozenset({f"synflow(rounds={self.rounds})"})

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return the place in the order of removal, (U,), in [0, 1)."""
        (need,) = self.needs
        return statistics.sum(need, piece.param, piece.target).to(wide(piece.tensor).dtype)
