"""Refit, or choose gradually and refit, by ADMM: one inverse for all rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from prunus.errors import InputError
from prunus.solvers.base import check_counts, check_numbers
from prunus.solvers.choice import Choice
from prunus.solvers.problem import Problem, factored, normalised
from prunus.solvers.quadratic import QuadraticSolver


@dataclass(frozen=True)
class ADMM(QuadraticSolver):
    """Alternate a ridge regression with a projection on the mask.

    With every input scaled to norm 1, A = G/(s sᵀ), Ŵ = W∘s and P = (A + ρI)⁻¹, each round does
    V = (ŴA + ρ(Z − U))P, Z = (V + U)∘keep, U += V − Z.
    rounds: 20 come within a few parts in 10⁴ of least squares on real layers.
    rho: the penalty ρ.
    gradual: `yes` chooses the mask, anew in each of the first `ramp` rounds t, from the largest |V + U| of the
        whole matrix, at sparsity s·(1 − (1 − t/ramp)³); a pattern is chosen in full each time. `no` only
        refits.
    Time 2·rounds·R·C² + C³; peak memory 5·R·C in the working dtype, and 4·C² float64.
    Source: Boža 2024, arXiv:2401.02938, algorithms 1 and 2.
    """

    word: ClassVar[str] = "admm"
    rounds: int = 20
    rho: float = 1.0
    gradual: str = "no"
    ramp: int = 15

    def __post_init__(self) -> None:
        check_counts(self.word, rounds=self.rounds, ramp=self.ramp)
        check_numbers(self.word, least=1e-6, rho=self.rho)
        if self.gradual not in ("yes", "no"):
            raise InputError(f"admm: gradual is {self.gradual!r}; yes or no is wanted")
        if self.chooses and self.ramp > self.rounds:
            raise InputError(f"admm: a ramp of {self.ramp} rounds does not end in {self.rounds}; raise rounds")

    @property
    def chooses(self) -> bool:
        """Whether it is gradual."""
        return self.gradual == "yes"

    def _mend(self, problem: Problem, choice: Choice) -> tuple[Tensor, Tensor]:
        target, gram, scale = normalised(problem)
        system = factored(gram, self.rho)
        rho = system.damping  # larger than asked for when the Gram matrix is not positive semidefinite
        inverse = torch.cholesky_inverse(system.lower).to(target.dtype)
        wanted = target @ (system.hessian.to(target.dtype) - rho * torch.eye(len(scale), device=scale.device))
        keep = self._choice_at(0, choice).highest(target.abs())
        z, u = target * keep, torch.zeros_like(target)
        for step in range(1, self.rounds + 1):
            u += (wanted + rho * (z - u)) @ inverse
            if choice.fixed is None and step <= self.ramp:
                keep = self._choice_at(step, choice).highest(u.abs())
            z = u * keep
            u -= z
        return z / scale, keep

    def _choice_at(self, step: int, choice: Choice) -> Choice:
        """Return the request of one round: on the ramp more may be kept than in the end."""
        if choice.num_kept is None:
            return choice
        start = choice.shape.numel() if choice.inside is None else int(choice.inside.sum())
        left = (1 - step / self.ramp) ** 3
        return replace(choice, num_kept=choice.num_kept + round((start - choice.num_kept) * left))
