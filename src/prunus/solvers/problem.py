"""The quadratic that every solver lowers: checks, dead inputs, damping, factors, and the error that is reported."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.errors import InputError

_BATCH = 1 << 23  # elements of float64 that a batch of rows may take: 64 MB
_RETRIES = 3
_FIRST_RETRY = 1e-3  # where the damping starts to grow from when none was asked for


@dataclass(frozen=True)
class Problem:
    """min ‖X(W'−W)ᵀ‖² over the weights that are kept.

    weight: (R, C) float32, or float64 for float64 weights; 0 at dead inputs (G_jj = 0), whatever they were:
        nothing was seen of them.
    gram: (C, C), 1 on the diagonal of dead inputs.
    """

    weight: Tensor
    gram: Tensor


@dataclass(frozen=True)
class Factored:
    """A damped Gram matrix that is positive definite, float64.

    hessian: (C, C); lower: its Cholesky factor, (C, C); damping: the fraction of the mean diagonal that was added.
    """

    hessian: Tensor
    lower: Tensor
    damping: float


def relative_error(weight: Tensor, new: Tensor, gram: Tensor) -> float:
    """Return ‖X(W'−W)ᵀ‖² / ‖XWᵀ‖² from G, in float64; 0/0 is 0.

    weight, new: (R, C); gram: (C, C), undamped.
    """
    return ratio(output_energy(weight, gram, minus=new), output_energy(weight, gram))


def ratio(change: float, whole: float) -> float:
    """Divide two energies; 0/0 is 0."""
    if not change:
        return 0.0
    return change / whole if whole else float("inf")


def output_energy(weight: Tensor, gram: Tensor, *, minus: Tensor | None = None) -> float:
    """Return ‖X(W − minus)ᵀ‖² = Σ_r w_r G w_rᵀ in float64, a batch of rows at a time."""
    wide = gram.double()
    energy = 0.0
    for rows in row_batches(weight, weight.shape[1]):
        part = weight[rows].double() if minus is None else weight[rows].double() - minus[rows].double()
        energy += float((part @ wide).mul_(part).sum())
    return max(0.0, energy)


def row_batches(matrix: Tensor, elements_per_row: int) -> Iterator[slice]:
    """Cut the rows so that a batch takes at most 64 MB, at `elements_per_row` float64 each; at least one row."""
    step = max(1, _BATCH // max(1, elements_per_row))
    for start in range(0, matrix.shape[0], step):
        yield slice(start, min(start + step, matrix.shape[0]))


def factored(gram: Tensor, damping: float) -> Factored:
    """Add damping·mean(diag) to the diagonal and factor; where that fails, ten times as much, three times.

    gram: (C, C), a positive diagonal.
    Each retry is said in a warning, and so is the last resort: the diagonal alone.
    """
    wide = gram.double()
    size = float(wide.diagonal().mean())
    tries = [damping, *(max(damping, _FIRST_RETRY / 10) * 10**i for i in range(1, _RETRIES + 1))]
    for number, used in enumerate(tries):
        hessian = wide.clone()
        hessian.diagonal().add_(used * size)
        lower, failed = torch.linalg.cholesky_ex(hessian)
        if not failed and _well_above_rounding(lower, hessian):
            if number:
                said = f"damped with {used:g}, not {damping:g}"
                warnings.warn(f"the Gram matrix is not positive definite; {said}", stacklevel=2)
            return Factored(hessian, lower, used)
    warnings.warn(
        f"the Gram matrix is not positive definite even when damped with {tries[-1]:g}; only its diagonal is used",
        stacklevel=2,
    )
    hessian = torch.diag(wide.diagonal() + damping * size)
    return Factored(hessian, hessian.sqrt(), damping)


def normalised(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Scale every input to norm 1: W∘s (R, C), G/(s sᵀ) (C, C) and s = sqrt(diag G) (C,)."""
    scale = problem.gram.diagonal().sqrt().to(problem.weight.dtype) + 1e-8
    gram = (problem.gram / scale / scale.unsqueeze(1)).to(problem.weight.dtype)
    return problem.weight * scale, gram, scale


def problem_of(weight: Tensor, gram: Tensor) -> Problem:
    """Check weight and Gram matrix and set dead inputs aside; raises InputError when they are wrong."""
    _check(weight, gram)
    dead = gram.diagonal() == 0
    working = weight.to(torch.float64 if weight.dtype == torch.float64 else torch.float32)
    if not bool(dead.any()):
        return Problem(working, gram)
    gram = gram.masked_fill(dead, 0).masked_fill(dead.unsqueeze(1), 0)
    gram.diagonal()[dead] = 1
    return Problem(working.masked_fill(dead, 0), gram)


def _well_above_rounding(lower: Tensor, hessian: Tensor) -> bool:
    """Whether no pivot is mere rounding; pivots of a principal submatrix are at least those of the whole."""
    least = lower.diagonal().min().square()
    return bool(least > hessian.shape[0] * torch.finfo(hessian.dtype).eps * hessian.diagonal().max())


def _check(weight: Tensor, gram: Tensor) -> None:
    if weight.dim() != 2 or not weight.is_floating_point():
        raise InputError(f"weight is {weight.dtype} {tuple(weight.shape)}; a float matrix (outputs, inputs) is wanted")
    inputs = weight.shape[1]
    if gram.shape != (inputs, inputs) or not gram.is_floating_point():
        raise InputError(
            f"gram is {gram.dtype} {tuple(gram.shape)} for a weight of {tuple(weight.shape)}; "
            f"float ({inputs}, {inputs}), the sum of x xᵀ, is wanted"
        )
    for what, tensor in (("weight", weight), ("gram", gram)):
        if not bool(tensor.isfinite().all()):
            raise InputError(f"{what} contains NaN or infinity; mend it before solving")
    if bool((gram.diagonal() < 0).any()):
        raise InputError("gram has a negative diagonal, which no sum of x xᵀ has; collect it anew, in float32 or wider")
