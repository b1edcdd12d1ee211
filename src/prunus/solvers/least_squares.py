"""The best weights for a given mask: exact least squares, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunus.solvers.base import check_numbers
from prunus.solvers.choice import Choice
from prunus.solvers.problem import Problem, factored, row_batches
from prunus.solvers.quadratic import QuadraticSolver


@dataclass(frozen=True)
class LeastSquares(QuadraticSolver):
    """Refit the kept weights S of every row exactly: w'_S = w_S + H_SS⁻¹ (H w_P)_S, P what is pruned.

    damping: fraction of the mean of diag G added to it; it pulls the kept weights towards what they were.
    Chooses no mask. Time Σ_rows |S|³/3; peak memory 3·C² float64, and about 200 MB (or 3·|S|²) for a batch of
    rows, whatever R. Made for C up to 1000 or 2000; beyond, take `admm`.
    """

    damping: float = 0.0
    word: ClassVar[str] = "lstsq"

    def __post_init__(self) -> None:
        check_numbers("lstsq", damping=self.damping)

    @property
    def chooses(self) -> bool:
        """It only refits."""
        return False

    def _mend(self, problem: Problem, choice: Choice) -> tuple[Tensor, Tensor]:
        keep = choice.highest(problem.weight)
        return masked_least_squares(problem.weight, factored(problem.gram, self.damping).hessian, keep), keep


def masked_least_squares(weight: Tensor, hessian: Tensor, keep: Tensor) -> Tensor:
    """Return argmin (w'−w) H (w'−w)ᵀ over the w' that are zero outside keep, for every row.

    weight: (R, C); hessian: (C, C) float64, positive definite; keep: (R, C) bool.
    Returns (R, C) in the dtype of weight, zero outside keep.
    """
    new = torch.where(keep, weight, torch.zeros_like(weight))
    if bool((keep == keep[:1]).all()):  # one mask for all rows, as channel pruning makes: one factor for all
        at = keep[0].nonzero().squeeze(1)
        if at.numel():
            lost = (weight.double().masked_fill(keep, 0) @ hessian)[:, at]
            lower = torch.linalg.cholesky(hessian[at][:, at])
            new[:, at] += torch.cholesky_solve(lost.T, lower).T.to(weight.dtype)
        return new
    counts = keep.sum(dim=1)
    order = counts.argsort(stable=True)  # rows of like counts together, so that little is padded
    for rows in row_batches(weight, int(counts.max()) ** 2):
        _refit_rows_(new, weight, hessian, keep, order[rows])
    return new


def _refit_rows_(new: Tensor, weight: Tensor, hessian: Tensor, keep: Tensor, rows: Tensor) -> None:
    """Solve a batch of rows whose systems are padded to one size with the identity."""
    kept = keep[rows]
    counts = kept.sum(dim=1)
    size = int(counts.max())
    if not size:
        return
    at = kept.int().argsort(dim=1, descending=True, stable=True)[:, :size]
    real = torch.arange(size, device=at.device) < counts.unsqueeze(1)
    systems = hessian[at.unsqueeze(2), at.unsqueeze(1)]
    systems.masked_fill_(~(real.unsqueeze(2) & real.unsqueeze(1)), 0)
    systems.diagonal(dim1=1, dim2=2).masked_fill_(~real, 1)
    lost = (weight[rows].double().masked_fill(kept, 0) @ hessian).gather(1, at).masked_fill(~real, 0)
    gained = torch.cholesky_solve(lost.unsqueeze(2), torch.linalg.cholesky(systems)).squeeze(2)
    new[rows] += torch.zeros_like(weight[rows]).scatter_(1, at, gained.to(weight.dtype))
