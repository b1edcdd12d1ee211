"""Mend a pruned model layer by layer: new values for the weights that are left, from what each layer reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from prunus.errors import NameNotFound, naming
from prunus.plans import named_state
from prunus.solvers.base import Solved, Solver
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
    wanted: weight name -> mask, density, or (n, m); the last two let the solver choose.
    propagate: `sparse` shows each layer what the pruned and mended layers before it hand on, and aims at the dense
        model's output, so that errors are made up for; two passes over the data per layer. `dense` shows it what the
        dense model hands on.
    Memory: beside the two models, one layer's inputs of one batch and its Gram matrices.
    Raises InputError where the solver cannot do what is wanted, TrainingError where model or data fail.
    """
    if propagate not in get_args(Propagate):
        raise NameNotFound.of("word for propagate", str(propagate), get_args(Propagate))
    done = Mending()
    order = readings(reference, wanted, calibration)
    tensors, dense = named_state(model), named_state(reference)
    for number, (name, layer) in enumerate(order.items(), start=1):
        if layer.kind == "conv_transpose":
            done.left[name] = "the inputs of a transposed convolution overlap in its outputs"
            continue
        follow = model if propagate == "sparse" else reference
        problem = observed(layer, follow, reference, calibration, dense[name])
        with naming(name):
            solved = solve_observed(problem, dense[name], wanted[name], solver)
        with_zeros = tensors[name] * solved.keep
        tensors[name].copy_(solved.weight)
        done.masks[name] = solved.keep
        done.errors[name] = (problem.error(with_zeros), problem.error(solved.weight))
        if progress is not None:
            progress(number, len(order), name)
    done.left.update({name: "it reads nothing that could be observed" for name in wanted if name not in order})
    return done


@dataclass
class LayerProblem:
    """min ‖X W'ᵀ − Y‖² of one layer, a group of channels at a time.

    gram: (groups, C, C), XᵀX. goal: (groups, R, C), YᵀX. energy: ‖Y‖².
    """

    layer: Layer
    gram: Tensor
    goal: Tensor
    energy: float = 0.0

    @property
    def kind(self) -> Kind:
        """The layer's kind, as `matrix_of` names it."""
        return "conv1d_hf" if self.layer.is_transposed else "conv" if self.layer.kind == "conv" else "linear"

    def matrices(self, weight: Tensor) -> Tensor:
        """Return the weight as (groups, R, C)."""
        return matrix_of(wide(weight), self.kind, groups=self.layer.groups)

    def error(self, weight: Tensor) -> float:
        """Return ‖X W'ᵀ − Y‖² / ‖Y‖²."""
        w = self.matrices(weight).double()
        change = ((w @ self.gram.double() - 2 * self.goal.double()) * w).sum() + self.energy
        return max(0.0, float(change)) / self.energy if self.energy else 0.0

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


def observed(
    layer: Layer, model: nn.Module, reference: nn.Module, calibration: Calibration, weight: Tensor
) -> LayerProblem:
    """Run both models over the data, and sum up what the layer reads in one and computes in the other."""
    columns, like = layer.num_columns, wide(weight)
    gram = like.new_zeros(layer.groups, columns, columns)
    problem = LayerProblem(layer, gram, torch.empty(0))
    w = problem.matrices(weight)
    problem.goal = torch.zeros_like(w)
    for batch in calibration.read(weight.device):
        dense = Reading.of(reference, layer.name, batch)
        seen = dense if model is reference else Reading.of(model, layer.name, batch)
        for x, x_dense in zip(seen.columns(layer), dense.columns(layer), strict=True):
            y = x_dense @ w.mT
            gram.baddbmm_(x.mT, x)
            problem.goal.baddbmm_(y.mT, x)
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
