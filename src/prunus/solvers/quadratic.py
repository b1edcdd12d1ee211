"""What our solvers share: the request is checked, the quadratic lowered, the result reported."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from prunus.errors import InputError
from prunus.solvers.base import Solved, solver, spelled
from prunus.solvers.choice import Choice
from prunus.solvers.pattern import Pattern
from prunus.solvers.problem import Problem, problem_of, relative_error


class QuadraticSolver(ABC):
    """A solver whose method lowers ‖X(W'−W)ᵀ‖² as the Gram matrix tells it.

    word: the name without settings.
    """

    word: ClassVar[str]

    @property
    def name(self) -> str:
        """The word with the settings that are not at their defaults."""
        return spelled(self.word, self)

    @property
    def chooses(self) -> bool:
        """Whether it can choose a mask."""
        return True

    def solve(
        self,
        weight: Tensor,
        gram: Tensor,
        *,
        keep: Tensor | None = None,
        density: float | None = None,
        pattern: Pattern | None = None,
    ) -> Solved:
        """Choose where `keep` is not the whole request, mend, and report; see `Solver.solve`."""
        problem = problem_of(weight.detach(), gram.detach().to(weight.device))
        choice = Choice.of(weight, keep, density, pattern)
        if choice.fixed is None and not self.chooses:
            raise InputError(f"{self.name} chooses no mask; give keep= alone, or take sparsegpt(refit=lstsq) or alps")
        if not weight.numel():
            return Solved(weight.detach().clone(), torch.ones_like(weight, dtype=torch.bool), 0.0)
        mended, kept = self._mend(problem, choice)
        new = torch.where(kept, mended, torch.zeros_like(mended)).to(weight.dtype)
        return Solved(new, kept, relative_error(weight.detach(), new, gram))

    @abstractmethod
    def _mend(self, problem: Problem, choice: Choice) -> tuple[Tensor, Tensor]:
        """Return new weights, (R, C), and what is kept, (R, C) bool, as `choice` demands."""


def refitted(spec: str, problem: Problem, keep: Tensor) -> Tensor:
    """Return the weights that the solver named `spec` gives to a mask; `none`: those of the problem.

    problem: its weight (R, C); keep: (R, C) bool.
    """
    return problem.weight if spec == "none" else solver(spec).solve(problem.weight, problem.gram, keep=keep).weight
