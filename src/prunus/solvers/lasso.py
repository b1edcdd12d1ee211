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
TOLERANCE = 1e-11
# In units of the largest diagonal entry: above rounding, below what a choice can depend on.
RIDGE = 1e-13
# In units of the λ at which nothing is left: where the path begins, and how far behind a bend it is looked at anew
# (more than TOLERANCE, so that a coefficient which comes back there is seen).
SMALLEST, STEP = 1e-6, 1e-8


@dataclass(frozen=True)
class PathStep:
    """A λ at which the path bends, and β just behind it, (C,) float64."""

    penalty: float
    beta: Tensor


def lasso(quadratic: Tensor, linear: Tensor, penalty: float) -> Tensor:
    """Minimise ½ βᵀAβ − bᵀβ + λ‖β‖₁ by cyclic coordinate descent, exact once the signs are right.

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
    penalty = SMALLEST * largest
    beta = problem.solve(penalty, np.zeros(len(problem.linear)))
    yield PathStep(penalty, torch.from_numpy(beta.copy()))
    while beta.any():
        bend = problem.next_bend(penalty, beta)
        penalty = min(bend + STEP * largest, largest)
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
        """Of equal columns, among which the minimum is free to choose, all but the last are taken out.

        A ridge of RIDGE makes the minimum unique where columns are dependent in other ways.
        """
        matrix: _Array = quadratic.detach().cpu().double().numpy()
        sizes = matrix.diagonal()
        both = sizes[:, None] + sizes
        last = ~np.triu(both - 2 * matrix <= TOLERANCE * both, k=1).any(axis=1)
        ridge = np.diag(RIDGE * sizes.max(initial=0.0) * (last & (sizes > 0)))
        return cls(matrix * np.outer(last, last) + ridge, linear.detach().cpu().double().numpy() * last)

    @property
    def slack(self) -> float:
        """What counts as rounding beside b."""
        return TOLERANCE * float(np.abs(self.linear).max(initial=0.0))

    def solve(self, penalty: float, start: _Array) -> _Array:
        """Sweep, then go to the exact minimum among vectors of the same signs, until no coefficient wants to move."""
        beta = start.copy()
        for _ in range(SWEEPS):
            beta = self._settled(beta, penalty)
            pull = self.linear - self.quadratic @ beta
            unrest = np.where(beta != 0, np.abs(pull - penalty * np.sign(beta)), np.abs(pull) - penalty)
            if unrest.max(initial=0.0) <= self.slack:
                return beta
            self._sweep_(beta, penalty)
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
                np.where(~inside & (side * drift > 1 + TOLERANCE), (penalty - side * pull) / (side * drift - 1), np.inf)
                for side in (1, -1)
            ]
        # Negative by rounding: just behind its bend.
        return penalty + max(0.0, float(np.min([zero, *entering], initial=np.inf)))

    def _sweep_(self, beta: _Array, penalty: float) -> None:
        """One coordinate after the other goes to its minimum."""
        pull = self.linear - self.quadratic @ beta
        for i in range(len(beta)):
            curvature = self.quadratic[i, i]
            wanted = pull[i] + curvature * beta[i]
            new = np.sign(wanted) * max(abs(wanted) - penalty, 0.0) / curvature if curvature > 0 else 0.0
            if new != beta[i]:
                pull -= self.quadratic[:, i] * (new - beta[i])
                beta[i] = new

    def _settled(self, beta: _Array, penalty: float) -> _Array:
        """Go to the stationary point for the signs of β; what would change its sign on the way stays at 0.

        Coordinate descent alone takes thousands of sweeps where columns are almost dependent.
        """
        while True:
            inside, signs = beta != 0, np.sign(beta)
            goal = np.zeros_like(beta)
            goal[inside] = _solved(
                self.quadratic[np.ix_(inside, inside)], self.linear[inside] - penalty * signs[inside]
            )
            crossing = np.flatnonzero(np.sign(goal) != signs)
            if not len(crossing):
                return goal
            shares = beta[crossing] / (beta[crossing] - goal[crossing])
            beta = beta + float(shares.min()) * (goal - beta)
            beta[crossing[shares.argmin()]] = 0.0


def _solved(matrix: _Array, right: _Array) -> _Array:
    """Solve a symmetric system; where it is singular, by least squares."""
    try:
        return np.asarray(np.linalg.solve(matrix, right), dtype=np.float64)
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.lstsq(matrix, right, rcond=None)[0], dtype=np.float64)
