"""The proof: thinned(x) == masked(x), in float64, on the model's own weights and on generic ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.axes import Graph, Surgery, copied
from prunus.axes.context import Value
from prunus.axes.positions import kept_positions
from prunus.errors import ProofError
from prunus.plans.float64 import double_, float64_inputs, noise_like, outputs
from prunus.plans.tensors import keep_mask, named_state

TOLERANCE = 1e-10
ROUNDING = 1e-6  # beyond it a difference is never taken for rounding
ROUNDING_MARGIN = 2


@dataclass(frozen=True)
class Proof:
    """What was compared and how far apart it was.

    max_abs: largest difference of any output element. max_rel: that of any output, over its own largest element.
    generic: the same with random weights, so that no dead branch hides an error; nan where those overflow.
    tolerance: 1e-10, or twice what moving the last three bits of the weights does to the outputs, where that is more.
    """

    max_abs: float
    max_rel: float
    generic: float
    tolerance: float = TOLERANCE
    dtype: str = "float64"

    @property
    def passed(self) -> bool:
        """Tell whether both comparisons hold."""
        return self.max_rel <= self.tolerance and not self.generic > self.tolerance

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Proof:
        """Read what `to_dict` wrote."""
        generic = math.nan if values["generic"] is None else values["generic"]
        return cls(values["max_abs"], values["max_rel"], generic, values["tolerance"], values["dtype"])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as the report stores them."""
        generic = None if math.isnan(self.generic) else self.generic
        return {
            "max_abs": self.max_abs,
            "max_rel": self.max_rel,
            "generic": generic,
            "tolerance": self.tolerance,
            "dtype": self.dtype,
            "passed": self.passed,
        }


Build = Callable[[nn.Module], nn.Module]
"""Makes the thinned or the masked model out of a dense one, which it may change."""


@torch.no_grad()
def prove(
    model: nn.Module,
    graph: Graph,
    surgery: Surgery,
    masks: Mapping[str, Tensor],
    thin: Build,
    mask: Build,
) -> Proof:
    """Compare masked and thinned copies of `model` on its example inputs, then with noise on weights and inputs.

    The noise is what shows an error behind a dead branch, or behind examples that are all zero.
    model: the dense model; it is not touched. Three float64 copies of it live while this runs.
    thin, mask: make the two sides out of dense copies.
    Raises ProofError, naming the first module whose output differs, unless each output agrees to 1e-10 of its largest,
    or to what the model's own rounding allows where it amplifies that beyond 1e-10.
    """
    dense = double_(copied(model))
    apply_masks_(dense, masks)
    own = _compare(dense, graph, surgery, thin, mask)
    randomise_(dense)
    apply_masks_(dense, masks)
    generic = _compare(dense, graph, surgery, thin, mask, finite=False)
    return Proof(own[0], own[1], generic[1], max(own[2], generic[2]))


def apply_masks_(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Zero the elements whose mask is False."""
    state = named_state(model)
    for name, mask in masks.items():
        state[name].data.masked_fill_(~mask.to(state[name].device), 0)


def _compare(
    dense: nn.Module, graph: Graph, surgery: Surgery, thin: Build, mask: Build, finite: bool = True
) -> tuple[float, float, float]:
    """Return the absolute and relative difference of masked and thinned outputs, and what the latter is held to."""
    masked, thinned = mask(copied(dense)), thin(copied(dense))
    try:
        want = run(masked, graph, noise=not finite)
    except Exception as error:
        if not finite:
            return math.nan, math.nan, TOLERANCE
        raise ProofError(
            f"{type(dense).__name__} does not run in float64, so nothing can be proved: {first_line(error)}; "
            "prove=False takes the plan at its word"
        ) from error
    if not all(torch.isfinite(t).all() for t in want):
        if finite:
            raise ProofError(
                "the masked model's output is not finite on the example inputs, so nothing can be compared"
            )
        return math.nan, math.nan, TOLERANCE
    try:
        got = run(thinned, graph, noise=not finite)
    except Exception as error:
        raise ProofError(
            f"{type(dense).__name__} cannot run with fewer channels: {first_line(error)}; its forward "
            "probably holds a fixed number (a literal in view or split): read it from the tensor or the module instead"
        ) from error
    apart, overall = distance(want, got)
    gaps = distances(want, got)
    if all(gap <= TOLERANCE for gap in gaps):
        return apart, max(gaps, default=0.0), TOLERANCE
    if distance(want, run(masked, graph, noise=not finite, seed=1))[1] > 0:
        raise ProofError(
            f"{type(dense).__name__} gives other outputs each time it runs in eval mode, so nothing can be compared; "
            "functional.dropout without training=self.training is the usual cause"
        )
    shaken = _shaken(masked, graph, want, noise=not finite) if overall <= ROUNDING else [0.0] * len(gaps)
    allowed = [max(TOLERANCE, ROUNDING_MARGIN * moved) for moved in shaken]
    if not all(gap <= limit for gap, limit in zip(gaps, allowed, strict=True)):
        raise ProofError(_first_difference(masked, thinned, graph, surgery, max(gaps)))
    # an output that is nothing but rounding says nothing, and is not reported
    told = [pair for pair in zip(gaps, allowed, strict=True) if pair[1] <= ROUNDING] or [(overall, ROUNDING)]
    return apart, max(gap for gap, _ in told), max(limit for _, limit in told)


def _shaken(masked: nn.Module, graph: Graph, want: list[Tensor], *, noise: bool) -> list[float]:
    """Return how far each output moves, on its own scale, when the last three bits of the model's weights do.

    A deep model may amplify rounding beyond the tolerance; two orders of summation differ by as much. A wrong index
    moves outputs by more than that by many orders.
    """
    generator = torch.Generator().manual_seed(2)
    for parameter in masked.parameters():
        if parameter.is_floating_point():
            bits = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype).to(parameter.device)
            parameter.data.mul_(1 + 2.0**-49 * bits)
    return distances(want, run(masked, graph, noise=noise))


def distances(want: list[Tensor], got: list[Tensor]) -> list[float]:
    """Return, per output, the largest difference as a share of that output's own largest element.

    A detector's boxes must not hide its scores. Where nothing but zeros is wanted, the largest of all outputs counts.
    """
    if [t.shape for t in want] != [t.shape for t in got]:
        return [math.inf]
    overall = _largest(want) or 1.0
    return [_largest([a - b]) / (_largest([a]) or overall) for a, b in zip(want, got, strict=True)]


def distance(want: list[Tensor], got: list[Tensor]) -> tuple[float, float]:
    """Return the largest difference of two lists of outputs, and its share of the largest that is wanted.

    Both are inf where shapes differ, nan where a number is.
    """
    if [t.shape for t in want] != [t.shape for t in got]:
        return math.inf, math.inf
    largest = _largest(want)
    apart = _largest([a - b for a, b in zip(want, got, strict=True)])
    return apart, apart / largest if largest else apart


def _largest(tensors: list[Tensor]) -> float:
    found = [float(t.abs().max()) for t in tensors if t.numel()]
    return math.nan if any(map(math.isnan, found)) else max(found, default=0.0)  # max alone may pass over a nan


def first_line(error: Exception) -> str:
    """Return an exception's kind and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def mask_(model: nn.Module, surgery: Surgery) -> None:
    """Zero, in place, every element that the surgery would cut away, but for rows that it spares."""
    state = named_state(model)
    for name, edit in surgery.zeroed.items():
        tensor = state[name]
        tensor.data.masked_fill_(~keep_mask(tensor.shape, edit).to(tensor.device), 0)


def run(model: nn.Module, graph: Graph, *, noise: bool = False, seed: int = 0) -> list[Tensor]:
    """Run a float64 model on the example inputs, with noise on them on request; see `outputs`."""
    return outputs(model, *float64_inputs(model, graph, noise=noise), graph.dtype, seed=seed)


def randomise_(model: nn.Module) -> None:
    """Give every parameter and running statistic generic values of its own scale."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in {id(t): (n, t) for n, t in named_state(model).items()}.values():
        if not tensor.is_floating_point():
            continue
        if name.endswith("running_var"):
            noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.data.copy_(noise.abs() + 0.5)
        elif tensor.numel() > 1 and isinstance(tensor, nn.Parameter):
            tensor.data.add_(noise_like(tensor, generator))
            if tensor.dim() > 1:  # the scale stays: growth from layer to layer costs digits
                tensor.data.mul_(1.25**-0.5)


def _first_difference(masked: nn.Module, thinned: nn.Module, graph: Graph, surgery: Surgery, relative: float) -> str:
    """Name the first leaf module whose kept outputs differ."""
    kept = surgery.kept
    last = {node.module: node.index for node in graph.trace.nodes if node.kind == "op"}
    ours, theirs = _record(thinned, graph), _record(masked, graph)
    for path, got in ours.items():
        value = graph.context.values[last[path]] if path in last else None
        want = theirs.get(path)
        if want is None or not isinstance(value, Value) or len(value.dims) != want.dim():
            continue
        for dim, axis in enumerate(value.dims):
            want = want.index_select(dim, torch.from_numpy(kept_positions(axis, kept)).to(want.device))
        if want.shape != got.shape:
            return f"{path} gives shape {tuple(got.shape)} thinned where {tuple(want.shape)} was predicted"
        difference = float((want - got).abs().max()) / max(float(want.abs().max()), 1e-300)
        if difference > TOLERANCE:
            return (
                f"thinned and masked first differ at {path}, by {difference:.2e} (relative); outputs by {relative:.2e}"
            )
    return f"thinned and masked outputs differ by {relative:.2e} (relative), after the last module that can be compared"


def _record(model: nn.Module, graph: Graph) -> dict[str, Tensor]:
    """Return the output of every leaf module that runs exactly once, in order of execution."""
    seen: dict[str, list[Tensor]] = {}
    handles = [
        module.register_forward_hook(
            lambda _m, _i, out, path=path: seen.setdefault(path, []).append(out) if isinstance(out, Tensor) else None
        )
        for path, module in model.named_modules()
        if not list(module.children())
    ]
    try:
        run(model, graph)
    finally:
        for handle in handles:
            handle.remove()
    return {path: outputs[0].clone() for path, outputs in seen.items() if len(outputs) == 1}
