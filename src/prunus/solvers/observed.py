"""What layers read in a pruned model and compute in the dense one, summed up as the problems that solvers take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunus.plans import named_state
from prunus.solvers.base import Solved, Solver
from prunus.solvers.layers import Kind, kind_of, matrix_of, solve_layer, weight_of
from prunus.statistics import Calibration, Layer, Readers, Reading, wide

Request = Tensor | float | tuple[int, int]
"""What is kept of a weight: a mask (bool, the weight's shape), a density for the solver to choose by, or n of m."""

RIDGE = 0.01
"""Pull towards the old weights, as a share of the Gram matrix's mean diagonal: few data must not overwhelm them."""


@dataclass
class LayerProblem:
    """min ‖X W'ᵀ − Y‖² of one layer, a group of channels at a time.

    weight: the dense one. gram: (groups, C, C), XᵀX. goal: (groups, R, C), YᵀX. energy: ‖Y‖².
    sums: (groups, C), of X, and (groups, R), of Y, float64. rows: T.
    """

    layer: Layer
    weight: Tensor
    gram: Tensor
    goal: Tensor
    sums: tuple[Tensor, Tensor]
    energy: float = 0.0
    rows: int = 0

    @classmethod
    def empty(cls, layer: Layer, weight: Tensor, gram: Tensor) -> LayerProblem:
        """Begin the sums; gram: where XᵀX is summed up, by this layer or by one that reads the same."""
        w = matrix_of(wide(weight), kind_of(layer), groups=layer.groups)
        sums = torch.zeros_like(w[:, 0], dtype=torch.float64), torch.zeros_like(w[..., 0], dtype=torch.float64)
        return cls(layer, wide(weight), gram, torch.zeros_like(w), sums)

    @property
    def kind(self) -> Kind:
        """The layer's kind, as `matrix_of` names it."""
        return kind_of(self.layer)

    def matrices(self, weight: Tensor) -> Tensor:
        """Return the weight as (groups, R, C)."""
        return matrix_of(wide(weight), self.kind, groups=self.layer.groups)

    def add_(self, seen: Reading, dense: Reading, *, with_gram: bool) -> None:
        """Add a batch: what is read in the model that is followed, and in the dense one."""
        w = self.matrices(self.weight)
        for x, x_dense in zip(seen.columns(self.layer), dense.columns(self.layer), strict=True):
            y = x_dense @ w.mT
            if with_gram:
                self.gram.baddbmm_(x.mT, x)
            self.goal.baddbmm_(y.mT, x)
            self.sums[0].add_(x.sum(dim=1, dtype=torch.float64))
            self.sums[1].add_(y.sum(dim=1, dtype=torch.float64))
            self.rows += x.shape[1]
            self.energy += float(y.square().sum(dtype=torch.float64))

    def error(self, weight: Tensor) -> float:
        """Return ‖X W'ᵀ − Y‖² / ‖Y‖²."""
        w = self.matrices(weight).double()
        change = ((w @ self.gram.double() - 2 * self.goal.double()) * w).sum() + self.energy
        return max(0.0, float(change)) / self.energy if self.energy else 0.0

    def missing(self, weight: Tensor) -> Tensor:
        """Return the mean of Y − X W'ᵀ, (groups · R,) float64: the constant that makes up for most of it."""
        read, computed = self.sums
        given = torch.einsum("gc,grc->gr", read, self.matrices(weight).double())
        return (computed - given).flatten() / max(1, self.rows)

    def target(self) -> Tensor:
        """Return the unpruned weights that come nearest to Y, of the weight's shape.

        ‖X W'ᵀ − Y‖² then is ‖X (W' − target)ᵀ‖² and a constant: a problem that every solver takes.
        """
        w, gram = self.matrices(self.weight).double(), self.gram.double()
        ridge = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=1e-30)
        damped = gram + torch.diag_embed(ridge.unsqueeze(1).expand(gram.shape[:2]))
        right = self.goal.double() + ridge[:, None, None] * w
        found = torch.linalg.solve(damped, right.mT).mT
        return weight_of(found.to(self.gram.dtype), self.kind, self.weight.shape)

    def solve(self, wanted: Request, solver: Solver) -> Solved:
        """Let a solver choose or mend."""
        return solve_layer(
            self.target(),
            self.gram,
            solver,
            kind=self.kind,
            groups=self.layer.groups,
            keep=wanted if isinstance(wanted, Tensor) else None,
            density=wanted if isinstance(wanted, float) else None,
            pattern=wanted if isinstance(wanted, tuple) else None,
        )


def observed(readers: Readers, model: nn.Module, reference: nn.Module, calibration: Calibration) -> list[LayerProblem]:
    """Run both models over the data, and sum up what the layers read in one and compute in the other.

    Transposed convolutions are left out: their inputs overlap in their outputs.
    """
    problems = list(_problems(readers.layers, named_state(reference)))
    if not problems:
        return []
    for batch in calibration.read(problems[0].gram.device):
        dense = Reading.of(reference, readers, batch)
        seen = dense if model is reference else Reading.of(model, readers, batch)
        summed: set[int] = set()
        for problem in problems:
            problem.add_(seen, dense, with_gram=id(problem.gram) not in summed)
            summed.add(id(problem.gram))
    return problems


def _problems(layers: Iterable[Layer], dense: Mapping[str, Tensor]) -> Iterator[LayerProblem]:
    """Begin the sums; layers that read in the same way share one Gram matrix."""
    grams: dict[Layer, Tensor] = {}
    for layer in layers:
        if layer.kind != "conv_transpose":
            weight = dense[layer.name].detach()
            empty = wide(weight).new_zeros(layer.groups, layer.num_columns, layer.num_columns)
            yield LayerProblem.empty(layer, weight, grams.setdefault(layer.way, empty))
