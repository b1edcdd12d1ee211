"""Mend a pruned model layer by layer: new values for the weights that are left, from what each layer reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from prunus.errors import InputError, NameNotFound, naming
from prunus.plans import named_state
from prunus.solvers.base import Solver
from prunus.solvers.bias import BiasShift
from prunus.solvers.observed import LayerProblem, Request, observed
from prunus.statistics import Calibration, evaluating, readings

Propagate = Literal["sparse", "dense"]


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
        model's output, so that errors are made up for; two passes over the data per layer, stopped at the layer.
        `dense` shows it what the dense model hands on.
    Layers that read one tensor, such as query, key and value, are taken together.
    Memory: beside the two models, one layer's inputs of one batch, its Gram matrices, and YᵀX of each taken together.
    Raises InputError where the solver cannot do what is wanted, TrainingError where model or data fail.
    """
    if propagate not in get_args(Propagate):
        raise NameNotFound.of("word for propagate", str(propagate), get_args(Propagate))
    done, follow = Mending(), model if propagate == "sparse" else reference
    weights = [name for name, request in wanted.items() if not isinstance(request, Tensor) or request.dim() > 1]
    order = readings(reference, weights, calibration)
    total = sum(len(readers.layers) for readers in order)
    with evaluating(model), evaluating(reference):
        for readers in order:
            for problem in observed(readers, follow, reference, calibration):
                _mend_(problem, named_state(model), wanted, solver, done)
                if progress is not None:
                    progress(len(done.masks), total, problem.layer.name)
    layers = {layer.name: layer for readers in order for layer in readers.layers}
    for name in weights:
        if name not in layers:
            done.left[name] = "it reads nothing that could be observed"
        elif layers[name].kind == "conv_transpose":
            done.left[name] = "the inputs of a transposed convolution overlap in its outputs"
    return done


def _mend_(
    problem: LayerProblem,
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Request],
    solver: Solver,
    done: Mending,
) -> None:
    """Solve one layer, and note it in `done`."""
    name = problem.layer.name
    if isinstance(solver, BiasShift):
        _move_bias_(tensors, problem, wanted, done)
        return
    with naming(name):
        solved = problem.solve(wanted[name], solver)
    with_zeros = tensors[name] * solved.keep
    tensors[name].copy_(solved.weight)
    done.masks[name] = solved.keep
    done.errors[name] = (problem.error(with_zeros), problem.error(solved.weight))


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
