"""LASSO from a Gram matrix: minimise ½ βᵀAβ − bᵀβ + λ‖β‖₁, at one λ or along the whole path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunus.errors import InputError

_Array = NDArray[np.float64]

SWEEPS = 10_000
TOLERANCE = 1e-10
# The path begins this far below the λ at which nothing is left, and λ never steps by less than STEP.
SMALLEST, STEP = 1e-6, 1e-9


@dataclass(frozen=True)
class PathStep:
    """A λ at which the path bends, and β just behind it, (C,) float64."""

    penalty: float
    beta: Tensor


def lasso(quadratic: Tensor, linear: Tensor, penalty: float) -> Tensor:
    """Minimise ½ βᵀAβ − bᵀβ + λ‖β‖₁ by cyclic coordinate descent.

    quadratic: A, (C, C), positive semidefinite. linear: b, (C,). penalty: λ >= 0.
    For A = ZᵀZ and b = Zᵀy, λ is n times the α of statistics packages, which divide the square by n rows.
    Returns β, (C,) float64. Of equal columns the last one is used.
    """
    return torch.from_numpy(_Problem.of(quadratic, linear).solve(penalty, np.zeros(len(linear))))


def lasso_path(quadratic: Tensor, linear: Tensor) -> Iterator[PathStep]:
    """Raise λ from almost 0 until every coefficient is zero, stopping wherever the path bends.

    quadratic, linear: as in `lasso`.
    Yields the first solution, then one step at each λ where a coefficient becomes zero or comes back; between two
    steps β is linear in λ. The last β is 0.
    """
    problem = _Problem.of(quadratic, linear)
    largest = float(np.abs(problem.linear).max(initial=0.0))
    penalty, beta = SMALLEST * largest, np.zeros(len(problem.linear))
    # Downwards in a few strides: each solution is a good start for the next.
    for stride in np.geomspace(largest, penalty, 13)[1:] if largest else ():
        beta = problem.solve(float(stride), beta)
    yield PathStep(penalty, torch.from_numpy(beta.copy()))
    while beta.any():
        bend = problem.next_bend(penalty, beta)
        penalty = min(max(bend, penalty) * (1 + STEP), largest)
        before, beta = beta, problem.solve(penalty, beta) if penalty < largest else np.zeros_like(beta)
        if not np.array_equal(np.sign(before), np.sign(beta)):
            yield PathStep(min(bend, largest), torch.from_numpy(beta.copy()))


@dataclass(frozen=True)
class _Problem:
    """A and b as NumPy arrays: its calls cost a tenth of torch's, and coordinate descent is many small ones."""

    quadratic: _Array
    linear: _Array

    @classmethod
    def of(cls, quadratic: Tensor, linear: Tensor) -> _Problem:
        """Of equal columns, among which the minimum is free to choose, all but the last are taken out."""
        matrix: _Array = quadratic.detach().cpu().double().numpy()
        sizes = matrix.diagonal()
        both = sizes[:, None] + sizes
        last = ~np.triu(both - 2 * matrix <= TOLERANCE * both, k=1).any(axis=1)
        return cls(matrix * np.outer(last, last), linear.detach().cpu().double().numpy() * last)

    @property
    def slack(self) -> float:
        """What counts as rounding beside b."""
        return TOLERANCE * float(np.abs(self.linear).max(initial=0.0))

    def solve(self, penalty: float, start: _Array) -> _Array:
        """Sweep until the signs are right: then the solution is that of a linear system, and exact."""
        beta = start.copy()
        for _ in range(SWEEPS):
            moved = self._sweep_(beta, penalty)
            exact = self._solve_on_support(beta, penalty)
            if exact is not None:
                return exact
            if moved <= TOLERANCE * np.abs(beta).max(initial=0.0):
                return beta
        raise InputError(f"LASSO at λ = {penalty:.3g} did not settle in {SWEEPS} sweeps; give more calibration samples")

    def next_bend(self, penalty: float, beta: _Array) -> float:
        """The least λ above `penalty` at which a coefficient reaches 0 or one outside reaches its bound, or inf."""
        inside = beta != 0
        signs = np.sign(beta)
        slope = np.zeros_like(beta)
        slope[inside] = -_solved(self.quadratic[np.ix_(inside, inside)], signs[inside])
        # With β(λ) = β + (λ − λ₀)·slope, the pull of an outside column moves by −A·slope.
        pull, drift = self.linear - self.quadratic @ beta, -self.quadratic @ slope
        with np.errstate(divide="ignore", invalid="ignore"):
            zero = np.where(inside & (signs * slope < 0), -beta / slope, np.inf)
            entering = [
                np.where(~inside & (side * drift > 1 + STEP), (penalty - side * pull) / (side * drift - 1), np.inf)
                for side in (1, -1)
            ]
        ahead = np.concatenate([zero, *entering])
        return penalty + float(ahead[ahead >= 0].min(initial=np.inf))

    def _sweep_(self, beta: _Array, penalty: float) -> float:
        """One coordinate after the other."""
        pull, moved = self.linear - self.quadratic @ beta, 0.0
        for i in range(len(beta)):
            curvature = self.quadratic[i, i]
            if curvature <= 0:
                beta[i] = 0.0
                continue
            wanted = pull[i] + curvature * beta[i]
            new = np.sign(wanted) * max(abs(wanted) - penalty, 0.0) / curvature
            if new != beta[i]:
                pull -= self.quadratic[:, i] * (new - beta[i])
                moved, beta[i] = max(moved, abs(new - beta[i])), new
        return moved

    def _solve_on_support(self, beta: _Array, penalty: float) -> _Array | None:
        """The stationary point for the signs of β, if it has these signs and nothing outside pulls harder than λ."""
        inside, signs = beta != 0, np.sign(beta)
        exact = np.zeros_like(beta)
        exact[inside] = _solved(self.quadratic[np.ix_(inside, inside)], self.linear[inside] - penalty * signs[inside])
        pull = self.linear - self.quadratic @ exact
        fits = np.abs(pull - penalty * np.sign(exact))[inside].max(initial=0.0) <= self.slack
        quiet = np.abs(pull[~inside]).max(initial=0.0) <= penalty + self.slack
        return exact if fits and quiet and np.array_equal(np.sign(exact), signs) else None


def _solved(matrix: _Array, right: _Array) -> _Array:
    """Solve a symmetric system; where it is singular, by least squares."""
    try:
        return np.asarray(np.linalg.solve(matrix, right), dtype=np.float64)
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.lstsq(matrix, right, rcond=None)[0], dtype=np.float64)
