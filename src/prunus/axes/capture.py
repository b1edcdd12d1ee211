"""Capture: by `torch.export`, or, where control flow depends on values, as the example inputs ran."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.axes.concrete import as_it_ran
from prunus.axes.planted import planting
from prunus.axes.regions import inline_regions_
from prunus.axes.trace import Meta, Node, Trace, as_inputs, location_of, record_node, ties_of
from prunus.axes.unwrap import check_cuttable
from prunus.errors import CaptureError


def capture(model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None = None, *, training: bool = False) -> Trace:
    """Capture `model` on example inputs by `torch.export`, not decomposed, in eval mode or as it trains.

    args: a tensor or a tuple of positional arguments; kwargs: keyword arguments.
    Where values decide what runs (`if x.sum() > 0`, `x[mask]`, experts in a loop), the operations of this very example
    are recorded instead; the trace says so. The model is left as it was, training flags included,
    and so is what its forward keeps in attributes: a detector's anchors would be tensors without values here.
    Raises CaptureError, naming the cause, where the model cannot be run or captured.
    """
    args, kwargs = as_inputs(args, kwargs)
    check_cuttable(model)
    with _untouched(model):
        model.train(training)
        trace = _captured(model, args, kwargs, training)
    if not any(isinstance(trace.nodes[ref.index].value, Meta) for ref in trace.nodes[-1].refs()):
        raise CaptureError(f"{type(model).__name__} returns no tensor, so there is nothing to compare or to prune")
    return trace


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Put every attribute of every module back afterwards, and what lists and dicts among them held."""
    attributes = [vars(module) for module in model.modules()]
    # hooks lie in ordered ones; transformers hangs its own on at the first forward, and notes that in an attribute
    kept = [x for own in attributes for x in (own, *own.values()) if type(x) in (list, dict, OrderedDict)]
    held = [(x, copy.copy(x)) for x in kept]
    try:
        yield
    finally:
        for x, before in held:
            x.clear()
            x.extend(before) if isinstance(x, list) else x.update(before)


def _captured(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], training: bool) -> Trace:
    try:
        return _exported(model, args, kwargs)
    except Exception as cause:
        with suppress(Exception), _quiet():
            return as_it_ran(model, args, kwargs)
        if isinstance(cause, CaptureError):
            raise
        raise CaptureError(_export_failure(model, args, kwargs, cause)) from cause


def _exported(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Trace:
    with planting(model) as recorder, torch.no_grad(), _quiet():
        program = torch.export.export(model, args, dict(kwargs), strict=False)
    return replace(_record(program, model, args, kwargs), calls=tuple(recorder.calls), matches=tuple(recorder.matches))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what export prints: warnings, and whole graphs where it fails; the error says what matters."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _export_failure(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], cause: Exception) -> str:
    """Say whether the model fails by itself on these inputs or only under capture; its buffers stay as they are."""
    name = type(model).__name__
    buffers = {path: buffer.detach().clone() for path, buffer in model.named_buffers()}  # statistics follow batches
    try:
        with torch.no_grad():
            torch.func.functional_call(model, buffers, args, dict(kwargs))
    except Exception as error:
        shapes = [tuple(x.shape) for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        return f"{name} fails on the example inputs {shapes}: {type(error).__name__}: {_first_line(error)}"
    return (
        f"{name} runs but torch.export cannot capture it: {type(cause).__name__}: {_first_line(cause)}; "
        "control flow that depends on tensor values is the usual cause"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def _record(program: Any, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Trace:
    signature = program.graph_signature
    names = {
        **{k: ("parameter", v) for k, v in signature.inputs_to_parameters.items()},
        **{k: ("buffer", v) for k, v in signature.inputs_to_buffers.items()},
        **{k: ("constant", v) for k, v in signature.inputs_to_lifted_tensor_constants.items()},
    }
    index: dict[Any, int] = {}
    nodes: list[Node] = []
    inline_regions_(program.graph_module)
    for node in program.graph.nodes:
        _check_static(node, model)
        index[node] = len(nodes)
        nodes.append(record_node(node, len(nodes), index, names))
    state = {k: Meta(tuple(v.shape), v.dtype) for k, v in program.state_dict.items()}
    for name, buffer in model.named_buffers():  # non-persistent ones are cut too, though no file holds them
        state.setdefault(name, Meta(tuple(buffer.shape), buffer.dtype))
    parameters = frozenset(n for n, _ in model.named_parameters(remove_duplicate=False))
    constants = {name: program.constants[name] for kind, name in names.values() if kind == "constant"}
    return Trace(tuple(nodes), state, parameters, ties_of(model), constants, program.call_spec.out_spec, args, kwargs)


def _check_static(node: Any, model: nn.Module) -> None:
    """Refuse sizes that only values decide (`x[mask]`, nonzero): they are not numbers that a plan could follow."""
    for value in pytree.tree_leaves(node.meta.get("val")):
        if isinstance(value, Tensor) and any(not isinstance(n, int) for n in value.shape):
            raise CaptureError(
                f"{type(model).__name__} makes a tensor whose size depends on values, by {node.target} at "
                f"{location_of(node.meta.get('stack_trace') or '')}; Prunus needs sizes that the example inputs decide"
            )
