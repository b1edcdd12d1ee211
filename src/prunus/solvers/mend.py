"""Mend a pruned model layer by layer: new values for the weights that are left, from what each layer reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from prunus.errors import InputError, NameNotFound, naming
from prunus.plans import named_state
from prunus.solvers.base import Solved, Solver
from prunus.solvers.bias import BiasShift
from prunus.solvers.layers import Kind, matrix_of, solve_layer, weight_of
from prunus.statistics import Calibration, Layer, Reading, readings, wide

Propagate = Literal["sparse", "dense"]

Request = Tensor | float | tuple[int, int]
"""What is kept of a weight: a mask (bool, the weight's shape), a density for the solver to choose by, or n of m."""

RIDGE = 0.01
"""Pull towards the old weights, as a share of the Gram matrix's mean diagonal: few data must not overwhelm them."""


@dataclass(frozen=True)
class Mending:
    """What `mend_` did.

    errors: weight -> squared output error on the calibration data, relative to the dense model's output, of the
        weights with zeros alone and of the mended ones. masks: weight -> what is kept now, bool.
    left: weight -> why it was left with its zeros alone.
    """

    errors: dict[str, tuple[float, float]] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The mean output error before and after."""
        before, after = (sum(pair[i] for pair in self.errors.values()) / max(1, len(self.errors)) for i in (0, 1))
        return f"mean output error {before:.4f} -> {after:.4f}"

    def __str__(self) -> str:
        lines = [f"{name}: output error {a:.4f} -> {b:.4f}" for name, (a, b) in self.errors.items()]
        return "\n".join([*lines, *(f"{name}: not mended, {why}" for name, why in self.left.items())])


@torch.no_grad()
def mend_(
    model: nn.Module,
    reference: nn.Module,
    wanted: Mapping[str, Request],
    solver: Solver,
    calibration: Calibration,
    *,
    propagate: Propagate = "sparse",
    progress: Callable[[int, int, str], None] | None = None,
) -> Mending:
    """Solve every weight that is wanted, in the order in which they run; `model` is changed in place.

    model: the pruned model, its zeros in place, in the dense shapes. reference: the dense one, unchanged.
    wanted: weight name -> mask, density, or (n, m); the last two let the solver choose. Masks of biases say which of
        their entries stay 0, where the solver moves biases.
    propagate: `sparse` shows each layer what the pruned and mended layers before it hand on, and aims at the dense
        model's output, so that errors are made up for; two passes over the data per layer. `dense` shows it what the
        dense model hands on.
    Memory: beside the two models, one layer's inputs of one batch and its Gram matrices.
    Raises InputError where the solver cannot do what is wanted, TrainingError where model or data fail.
    """
    if propagate not in get_args(Propagate):
        raise NameNotFound.of("word for propagate", str(propagate), get_args(Propagate))
    done = Mending()
    weights = [name for name, request in wanted.items() if not isinstance(request, Tensor) or request.dim() > 1]
    order = readings(reference, weights, calibration)
    tensors, dense = named_state(model), named_state(reference)
    for number, (name, layer) in enumerate(order.items(), start=1):
        if layer.kind == "conv_transpose":
            done.left[name] = "the inputs of a transposed convolution overlap in its outputs"
            continue
        follow = model if propagate == "sparse" else reference
        problem = observed(layer, follow, reference, calibration, dense[name])
        if isinstance(solver, BiasShift):
            _move_bias_(tensors, problem, wanted, done)
        else:
            with naming(name):
                solved = solve_observed(problem, dense[name], wanted[name], solver)
            with_zeros = tensors[name] * solved.keep
            tensors[name].copy_(solved.weight)
            done.masks[name] = solved.keep
            done.errors[name] = (problem.error(with_zeros), problem.error(solved.weight))
        if progress is not None:
            progress(number, len(order), name)
    done.left.update({name: "it reads nothing that could be observed" for name in weights if name not in order})
    return done


@dataclass
class LayerProblem:
    """min ‖X W'ᵀ − Y‖² of one layer, a group of channels at a time.

    gram: (groups, C, C), XᵀX. goal: (groups, R, C), YᵀX. energy: ‖Y‖².
    sums: (groups, C), of X, and (groups, R), of Y, float64. rows: T.
    """

    layer: Layer
    gram: Tensor
    goal: Tensor
    sums: tuple[Tensor, Tensor]
    energy: float = 0.0
    rows: int = 0

    @property
    def kind(self) -> Kind:
        """The layer's kind, as `matrix_of` names it."""
        return _kind(self.layer)

    def matrices(self, weight: Tensor) -> Tensor:
        """Return the weight as (groups, R, C)."""
        return matrix_of(wide(weight), self.kind, groups=self.layer.groups)

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

    def target(self, weight: Tensor) -> Tensor:
        """Return the unpruned weights that come nearest to Y, of the weight's shape.

        ‖X W'ᵀ − Y‖² then is ‖X (W' − target)ᵀ‖² and a constant: a problem that every solver takes.
        """
        w, gram = self.matrices(weight).double(), self.gram.double()
        ridge = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=1e-30)
        damped = gram + torch.diag_embed(ridge.unsqueeze(1).expand(gram.shape[:2]))
        right = self.goal.double() + ridge[:, None, None] * w
        found = torch.linalg.solve(damped, right.mT).mT
        return weight_of(found.to(self.gram.dtype), self.kind, weight.shape)


def _kind(layer: Layer) -> Kind:
    return "conv1d_hf" if layer.is_transposed else "conv" if layer.kind == "conv" else "linear"


def observed(
    layer: Layer, model: nn.Module, reference: nn.Module, calibration: Calibration, weight: Tensor
) -> LayerProblem:
    """Run both models over the data, and sum up what the layer reads in one and computes in the other."""
    columns, like = layer.num_columns, wide(weight)
    gram = like.new_zeros(layer.groups, columns, columns)
    w = matrix_of(like, _kind(layer), groups=layer.groups)
    sums = torch.zeros_like(w[:, 0], dtype=torch.float64), torch.zeros_like(w[..., 0], dtype=torch.float64)
    problem = LayerProblem(layer, gram, torch.zeros_like(w), sums)
    for batch in calibration.read(weight.device):
        dense = Reading.of(reference, layer.name, batch)
        seen = dense if model is reference else Reading.of(model, layer.name, batch)
        for x, x_dense in zip(seen.columns(layer), dense.columns(layer), strict=True):
            y = x_dense @ w.mT
            gram.baddbmm_(x.mT, x)
            problem.goal.baddbmm_(y.mT, x)
            sums[0].add_(x.sum(dim=1, dtype=torch.float64))
            sums[1].add_(y.sum(dim=1, dtype=torch.float64))
            problem.rows += x.shape[1]
            problem.energy += float(y.square().sum(dtype=torch.float64))
    return problem


def solve_observed(problem: LayerProblem, weight: Tensor, wanted: Request, solver: Solver) -> Solved:
    """Solve a layer for what was observed of it; weight: the dense one."""
    keep = wanted if isinstance(wanted, Tensor) else None
    return solve_layer(
        problem.target(weight).to(weight.dtype),
        problem.gram,
        solver,
        kind=problem.kind,
        groups=problem.layer.groups,
        keep=keep,
        density=wanted if isinstance(wanted, float) else None,
        pattern=wanted if isinstance(wanted, tuple) else None,
    )


def _move_bias_(
    tensors: Mapping[str, Tensor], problem: LayerProblem, wanted: Mapping[str, Request], done: Mending
) -> None:
    """Add what the layer's outputs miss on average to its bias, where that is not pruned itself."""
    name = problem.layer.name
    stem, dot, last = name.rpartition(".")
    bias = f"{stem}{dot}{last.replace('weight', 'bias')}"
    keep, inside = wanted[name], wanted.get(bias)
    if not isinstance(keep, Tensor):
        raise InputError(f"{name}: bias chooses no mask; give one, or take sparsegpt or alps")
    weight = tensors[name] * keep
    missing = problem.missing(weight)
    if bias == name or bias not in tensors or tensors[bias].shape != missing.shape:
        done.left[name] = "it has no bias"
        return
    if isinstance(inside, Tensor):
        missing = missing * inside
    tensors[bias].add_(missing.to(tensors[bias].dtype))
    before = problem.error(weight)
    gained = problem.rows * float(missing.square().sum())
    done.errors[name] = (before, max(0.0, before - gained / problem.energy) if problem.energy else 0.0)
    done.masks[name] = keep
