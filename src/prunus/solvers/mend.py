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
from prunus.statistics import Calibration, Layer, Readers, Reading, evaluating, readings, wide

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
        model's output, so that errors are made up for; two passes over the data per layer, stopped at the layer.
        `dense` shows it what the dense model hands on.
    Layers that read one tensor, such as query, key and value, are taken together.
    Memory: beside the two models, one layer's inputs of one batch, its Gram matrices, and YᵀX of each taken together.
    Raises InputError where the solver cannot do what is wanted, TrainingError where model or data fail.
    """
    if propagate not in get_args(Propagate):
        raise NameNotFound.of("word for propagate", str(propagate), get_args(Propagate))
    done, follow = Mending(), model if propagate == "sparse" else reference
    order = readings(reference, wanted, calibration)
    total, number = sum(len(readers.layers) for readers in order), 0
    with evaluating(model), evaluating(reference):
        for readers in order:
            for problem in _observed(readers, follow, reference, calibration, done):
                number += 1
                _mend_(problem, model, reference, wanted, solver, done)
                if progress is not None:
                    progress(number, total, problem.layer.name)
    seen = {name for readers in order for name in readers.names}
    done.left.update({name: "it reads nothing that could be observed" for name in wanted if name not in seen})
    return done


def _mend_(
    problem: _Problem,
    model: nn.Module,
    reference: nn.Module,
    wanted: Mapping[str, Request],
    solver: Solver,
    done: Mending,
) -> None:
    """Solve one layer, and note it in `done`."""
    name = problem.layer.name
    tensor = named_state(model)[name]
    with naming(name):
        solved = _solve(problem, named_state(reference)[name], wanted[name], solver)
    with_zeros = tensor * solved.keep
    tensor.copy_(solved.weight)
    done.masks[name] = solved.keep
    done.errors[name] = (problem.error(with_zeros), problem.error(solved.weight))


@dataclass
class _Problem:
    """min ‖X W'ᵀ − Y‖² of one layer, a group of channels at a time.

    gram: (groups, C, C), XᵀX. weight: the dense one. goal: (groups, R, C), YᵀX. energy: ‖Y‖².
    """

    layer: Layer
    gram: Tensor
    weight: Tensor
    goal: Tensor = field(default_factory=lambda: torch.empty(0))
    energy: float = 0.0

    @property
    def kind(self) -> Kind:
        return "conv1d_hf" if self.layer.is_transposed else "conv" if self.layer.kind == "conv" else "linear"

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
            self.energy += float(y.square().sum(dtype=torch.float64))

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


def _observed(
    readers: Readers, model: nn.Module, reference: nn.Module, calibration: Calibration, done: Mending
) -> list[_Problem]:
    """Run both models over the data, and sum up what the layers read in one and compute in the other."""
    problems = _problems(readers, named_state(reference), done)
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


def _problems(readers: Readers, dense: Mapping[str, Tensor], done: Mending) -> list[_Problem]:
    """Begin the sums; layers that read in the same way share one Gram matrix."""
    grams: dict[Layer, Tensor] = {}
    problems = []
    for layer in readers.layers:
        if layer.kind == "conv_transpose":
            done.left[layer.name] = "the inputs of a transposed convolution overlap in its outputs"
            continue
        like = wide(dense[layer.name].detach())
        empty = like.new_zeros(layer.groups, layer.num_columns, layer.num_columns)
        problem = _Problem(layer, grams.setdefault(layer.way, empty), like)
        problem.goal = torch.zeros_like(problem.matrices(like))
        problems.append(problem)
    return problems


def _solve(problem: _Problem, weight: Tensor, wanted: Request, solver: Solver) -> Solved:
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
