"""The cheapest repair: what pruned inputs gave on average goes into the bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from prunus.solvers.choice import Choice
from prunus.solvers.problem import Problem
from prunus.solvers.quadratic import QuadraticSolver


@dataclass(frozen=True)
class BiasShift(QuadraticSolver):
    """Leave the kept weights as they are; in a model, `mend_` adds to a layer's bias the mean output that is missing.

    The Gram matrix of one layer alone knows no means, so `solve` only applies the mask. Chooses no mask.
    Source: An et al. 2024, FLAP (arXiv:2312.11983), equation 3.
    """

    word: ClassVar[str] = "bias"

    @property
    def chooses(self) -> bool:
        """It only mends."""
        return False

    def _mend(self, problem: Problem, choice: Choice) -> tuple[Tensor, Tensor]:
        return problem.weight, choice.highest(problem.weight)
