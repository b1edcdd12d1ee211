"""ALPS: the mask and the weights together, by ADMM with a growing penalty, then conjugate gradients on the mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunus.solvers.base import check_counts, check_numbers
from prunus.solvers.choice import Choice
from prunus.solvers.problem import Problem, normalised
from prunus.solvers.quadratic import QuadraticSolver

_EVERY = 3  # rounds between two looks at the support
_EARLIEST = 30  # no early stop before this round
_SETTLED = 3e-4  # share of the support that may still change at an early stop
_GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))  # share of the support that changed, growth of the penalty


@dataclass(frozen=True)
class ALPS(QuadraticSolver):
    """Minimise ½‖X(W'−W)ᵀ‖² subject to the count, splitting weights from their projection on the mask.

    Every input is scaled to norm 1; the largest weights of the whole matrix (or of each group of n:m) are kept.
    damping: the ridge that is added to the scaled Gram matrix, whose diagonal is 1.
    rho: the first penalty; every 3 rounds it grows by 1.3, 1.2 or 1.1, the more the support still changes, and
        it stops when that no longer does.
    rounds: at most so many. polish: at most so many conjugate gradient steps on the final mask.
    Time (2·rounds + 2·polish)·R·C² and one eigendecomposition; 30 to 33 rounds on MiniLM's layers. Peak memory
    8·R·C and 8·C² in the working dtype, float32 but for float64 weights (measured at 2048×2048: 260 MB).
    Source: Meng et al. 2024, arXiv:2406.07831, algorithms 1 and 2.
    """

    word: ClassVar[str] = "alps"
    damping: float = 0.01
    rho: float = 0.1
    rounds: int = 300
    polish: int = 10

    def __post_init__(self) -> None:
        check_counts(self.word, rounds=self.rounds, polish=self.polish)
        check_numbers(self.word, damping=self.damping)
        check_numbers(self.word, least=1e-6, rho=self.rho)

    def _mend(self, problem: Problem, choice: Choice) -> tuple[Tensor, Tensor]:
        target, gram, scale = normalised(problem)
        gram.diagonal().add_(self.damping)
        start, keep = self._split(target, gram, choice)
        return _conjugate_gradients(start, target, gram, keep, self.polish) / scale, keep

    def _split(self, target: Tensor, gram: Tensor, choice: Choice) -> tuple[Tensor, Tensor]:
        """Return sparse weights and their mask, both (R, C)."""
        values, vectors = torch.linalg.eigh(gram)
        values.clamp_min_(0)  # a Gram matrix collected in low precision may dip below
        wanted, rho = target @ gram, self.rho
        inverse = _shifted_inverse(values, vectors, rho)
        sparse, dual = target.clone(), torch.zeros_like(target)
        keep = torch.zeros_like(target, dtype=torch.bool)
        before = keep
        for step in range(1, self.rounds + 1):
            dense = (wanted - dual).add_(sparse, alpha=rho) @ inverse
            dense.add_(dual, alpha=1 / rho)
            keep = choice.highest(dense.abs())
            sparse = dense * keep
            dual = (dense - sparse).mul_(rho)
            if step % _EVERY:
                continue
            changed = int((keep != before).sum())
            share, before = changed / max(1, int(keep.sum())), keep
            if not changed or (step >= _EARLIEST and share < _SETTLED):
                break
            rho *= next(growth for least, growth in _GROWTH if share > least)
            inverse = _shifted_inverse(values, vectors, rho)
        return sparse, keep


def _shifted_inverse(values: Tensor, vectors: Tensor, rho: float) -> Tensor:
    """Return (QΛQᵀ + ρI)⁻¹, (C, C)."""
    return (vectors / (values + rho)) @ vectors.T


def _conjugate_gradients(start: Tensor, target: Tensor, gram: Tensor, keep: Tensor, steps: int) -> Tensor:
    """Lower (w−ŵ)A(w−ŵ)ᵀ over the kept weights of every row; the diagonal of A is constant, no more is preconditioned.

    start, target: (R, C); gram: A, (C, C); keep: (R, C) bool. Returns (R, C).
    """
    weight = start.clone()
    residual = ((target - weight) @ gram).mul_(keep)
    direction = residual.clone()
    norm = residual.square().sum(dim=1, keepdim=True)
    least = norm * torch.finfo(norm.dtype).eps ** 2
    for _ in range(steps):
        mapped = (direction @ gram).mul_(keep)
        curvature = (direction * mapped).sum(dim=1, keepdim=True)
        length = torch.where(curvature > 0, norm / curvature, torch.zeros_like(norm))
        weight += length * direction
        residual -= length * mapped
        after = residual.square().sum(dim=1, keepdim=True)
        if bool((after <= least).all()):
            break
        direction = residual + torch.where(norm > 0, after / norm, torch.zeros_like(norm)) * direction
        norm = after
    return weight
