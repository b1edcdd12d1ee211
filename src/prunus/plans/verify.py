"""A second opinion on a thinned model, from its record alone: no structure is derived for it, no rule is asked.

The record says which positions of which tensors were kept. With random weights in the dense class, zeros at all other
positions must compute what the slices compute in the thinned class. That is a claim about the two classes and the
record, so it can be checked long after the weights have been trained on.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.axes import Surgery, copied
from prunus.axes.trace import as_inputs
from prunus.errors import CaptureError, InputError, ProofError
from prunus.plans.float64 import double_, float64_code, outputs
from prunus.plans.proof import TOLERANCE, distance, distances, first_line
from prunus.plans.record import Form, Record, record_of
from prunus.plans.store import read, rebuilt
from prunus.plans.surgery import check_same_model, thin_
from prunus.plans.surgery import thinned as sliced
from prunus.plans.tensors import named_state


@dataclass(frozen=True)
class Verdict:
    """What was compared and what came of it; `print(verdict)` says it in words.

    problem: one sentence, or None where thinned and masked agree on every draw. form: the thinned model's, None where
    nothing was removed. cut: tensors that lose positions. num_params: parameters of the dense and the thinned class.
    differences: per draw of weights and inputs, the largest difference over the largest output, in float64.
    changed: tensors that are no exact slices of the dense weights; None where those were not given.
    """

    problem: str | None
    form: Form | None = None
    cut: tuple[str, ...] = ()
    num_params: tuple[int, int] = (0, 0)
    differences: tuple[float, ...] = ()
    changed: tuple[str, ...] | None = None

    @property
    def holds(self) -> bool:
        """Tell whether the thinned model is the dense one without the removed units."""
        return self.problem is None

    def __str__(self) -> str:
        lines = []
        if self.cut:
            before, after = self.num_params
            lines.append(f"cut: {len(self.cut)} tensors, {before:,} -> {after:,} parameters")
        if self.differences:
            lines += [
                "compared: the dense class with zeros at the removed positions, and the thinned class, in float64",
                f"draws of random weights and inputs: {len(self.differences)}",
                f"largest difference: {max(self.differences):.1e} of an output's largest (limit {TOLERANCE:.0e})",
            ]
        if self.form == "graph":
            lines.append("the thinned model is a graph, so it was captured again as `load` does; a class would not be")
        if self.changed is not None:
            first = f": {', '.join(self.changed[:3])}{', …' if len(self.changed) > 3 else ''}"
            lines.append(
                f"{len(self.changed)} tensors differ from the dense weights' slices, so they were changed since{first}"
                if self.changed
                else "the weights are untouched: exact slices of the dense ones"
            )
        return "\n".join([*lines, f"does not hold: {self.problem}" if self.problem else "holds"])


@torch.no_grad()
def verify(
    dense: nn.Module | Callable[[], nn.Module],
    thinned: nn.Module | str | os.PathLike[str],
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    draws: int = 3,
) -> Verdict:
    """Check a thinned model against its dense class on random weights and inputs.

    dense: what builds the dense model; or one with the original weights, then the thinned weights are compared with
        its slices too. thinned: a `.prunus` file, or the thinned model itself. Neither is changed.
    args, kwargs: inputs whose shapes and dtypes are used; floats are drawn anew, integers within the range given.
    Raises FileError where there is no such file or it is damaged, InputError where the dense model does not run.
    """
    record, weights = _contents(thinned)
    inputs = as_inputs(args, kwargs)
    model = dense if isinstance(dense, nn.Module) else dense()
    if not isinstance(model, nn.Module):
        raise InputError(f"the dense factory returned {type(model).__name__}, not a torch.nn.Module")
    if record is None or not (record.surgery.edits or record.surgery.dropped):
        return Verdict("no unit was removed, so there is nothing to compare")
    if record.inexact:
        why = "a norm, a mean or a router runs over fewer units than the masked model's, which zeros do not show"
        return Verdict(why, record.form)
    try:
        check_same_model(model, record.shapes)
        with float64_code():
            small = rebuilt(double_(copied(model)), record, lambda inputs: _mapped(inputs, Tensor.double))
        _check_fit(small, weights)
    except (InputError, CaptureError, AttributeError, KeyError, IndexError) as misfit:
        name = f"{type(model).__module__}.{type(model).__qualname__}"
        return Verdict(f"the thinned model was not made from {name}: {misfit}", record.form)
    sizes = _num_params(model), _num_params(small)
    changed = _changed(model, record, weights) if isinstance(dense, nn.Module) else None
    try:
        apart = tuple(_difference(model, small, record, inputs, seed) for seed in range(draws))
        problem = _judged(apart)
    except ProofError as stiff:
        apart, problem = (), str(stiff)
    return Verdict(problem, record.form, tuple(record.surgery.edits), sizes, apart, changed)


def _contents(thinned: nn.Module | str | os.PathLike[str]) -> tuple[Record | None, dict[str, Tensor]]:
    """Return the record and the weights that a file would hold."""
    if isinstance(thinned, nn.Module):
        return record_of(thinned), {n: t for n, t in thinned.state_dict().items() if isinstance(t, Tensor)}
    return read(thinned)[:2]


def _check_fit(small: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raise InputError unless the rebuilt model has the tensors that were saved, in their shapes."""
    own = small.state_dict()
    if own.keys() != weights.keys():
        raise InputError(f"only one of them has {min(own.keys() ^ weights.keys())}")
    for name, tensor in weights.items():
        if own[name].shape != tensor.shape:
            raise InputError(f"{name} was saved as {tuple(tensor.shape)} and is rebuilt as {tuple(own[name].shape)}")


def _difference(model: nn.Module, small: nn.Module, record: Record, inputs: Any, seed: int) -> float:
    """Return how far masked and thinned outputs are apart, over the largest; inf where even their shapes differ."""
    generator = torch.Generator().manual_seed(seed)
    masked = double_(copied(model))
    _draw_(masked, generator)
    state = named_state(masked)
    for name, tensor in named_state(small).items():
        tensor.data = sliced(state[name], record.surgery, name)
    for name, edit in record.surgery.zeroed.items():
        for dim, kept in edit.items():
            gone = np.setdiff1d(np.arange(state[name].shape[dim]), kept)
            state[name].data.index_fill_(dim, torch.from_numpy(gone).to(state[name].device), 0)
    thin_(masked, Surgery({}, {}, dropped=record.surgery.dropped))
    device = next(iter(state.values())).device
    args, kwargs = _mapped(inputs, lambda x: _redrawn(x, generator).to(device), integers=True)
    try:
        want = outputs(masked, args, kwargs)
    except Exception as error:
        raise InputError(f"{type(model).__name__} does not run on inputs like these: {first_line(error)}") from error
    try:
        got = outputs(small, args, kwargs)
    except Exception as error:
        raise ProofError(f"the thinned model does not run with these cuts: {first_line(error)}") from error
    if not all(torch.isfinite(t).all() for t in want):
        return math.nan
    apart, relative = distance(want, got)[0], max(distances(want, got), default=0.0)
    return relative if apart or any(t.any() for t in want) else math.nan


def _draw_(model: nn.Module, generator: torch.Generator) -> None:
    """Give a float64 model weights that keep activations near 1, no bias at 0, no scale at 1, variances above 0."""
    parameters = {id(p) for p in model.parameters()}
    for name, tensor in {id(t): (n, t) for n, t in named_state(model).items()}.values():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
        if name.endswith("running_var"):
            tensor.data = noise.abs() + 0.5
        elif tensor.dim() > 1 and id(tensor) in parameters:
            tensor.data = noise / max(1, tensor[0].numel()) ** 0.5
        elif id(tensor) in parameters or name.endswith("running_mean"):
            tensor.data = tensor.data + 0.5 * noise
        else:  # tables of positions or frequencies keep their kind: signs, zeros and infinities
            tensor.data = tensor.data * (1 + 0.1 * noise.clamp(-3, 3))


def _redrawn(x: Tensor, generator: torch.Generator) -> Tensor:
    if x.is_floating_point():
        return torch.randn(x.shape, generator=generator, dtype=torch.float64)
    if x.dtype == torch.bool or not x.numel():
        return x
    return torch.randint(int(x.min()), int(x.max()) + 1, x.shape, generator=generator, dtype=x.dtype)


def _mapped(inputs: Any, change: Callable[[Tensor], Tensor], *, integers: bool = False) -> Any:
    """Return nested inputs with their floating (or all) tensors changed."""
    return pytree.tree_map(
        lambda x: change(x) if isinstance(x, Tensor) and (integers or x.is_floating_point()) else x, inputs
    )


def _changed(model: nn.Module, record: Record, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """List the saved tensors that are not bit for bit what the record makes of the dense weights."""
    found = []
    gone = tuple(f"{name}." for name in record.surgery.dropped)
    for name, tensor in model.state_dict().items():
        if name.startswith(gone):
            continue
        want = sliced(tensor, record.surgery, name).to(weights[name])
        if name in record.masks:
            want = want.masked_fill(~record.masks[name].to(want.device), 0)
        if not torch.equal(want, weights[name]):
            found.append(name)
    return tuple(found)


def _judged(apart: tuple[float, ...]) -> str | None:
    """Say what is wrong with the differences, if anything."""
    if any(math.isnan(x) for x in apart):
        return "an output is zero or not finite on random weights, so nothing could be compared"
    if not max(apart) <= TOLERANCE:
        return f"thinned and masked outputs differ by {max(apart):.1e} of the largest, more than {TOLERANCE:.0e}"
    return None


def _num_params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
