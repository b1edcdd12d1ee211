"""Capture: a model and its example inputs become a list of operations over named tensors.

The record is ours, not `torch.fx`'s, so that the rules depend on operations, arguments, shapes and names alone, and
another way to capture can stand in for `torch.export`.
"""

from __future__ import annotations

import io
import logging
import operator
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.axes.planted import TAG, Call, planting
from prunus.axes.regions import inline_regions_
from prunus.axes.unwrap import check_cuttable
from prunus.errors import CaptureError, InputError


@dataclass(frozen=True)
class Ref:
    """An argument that is the value of node `index`."""

    index: int


@dataclass(frozen=True)
class Meta:
    """Shape and dtype of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Node:
    """One operation, input or parameter.

    kind: `input`, `parameter`, `buffer`, `constant`, `op` or `output`.
    target: the operator of an `op`; the state-dict name of a parameter or buffer; else the node's name.
    args, kwargs: as the operator takes them, with `Ref` in place of tensors.
    value: Meta, a tuple of Meta (and None) for several results, or None where the result is no tensor.
    module: path of the innermost module whose forward made the node.
    location: `file.py:12`, the user's line.
    call: which of the trace's calls made it, where a planted integer was among that call's arguments.
    """

    index: int
    kind: str
    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    value: Meta | tuple[Meta | None, ...] | None
    module: str
    location: str
    call: int | None = None

    def refs(self) -> Iterator[Ref]:
        """Yield every tensor argument in order."""
        for leaf in pytree.tree_leaves((self.args, dict(self.kwargs)), is_leaf=lambda x: isinstance(x, Ref)):
            if isinstance(leaf, Ref):
                yield leaf

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument given by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a single result."""
        assert isinstance(self.value, Meta), self
        return self.value.shape

    @property
    def op(self) -> str:
        """Name of the operation, such as `aten.conv2d`."""
        return str(self.target).removesuffix(".default")


@dataclass(frozen=True)
class Trace:
    """A captured model.

    nodes: in execution order.
    state: shapes and dtypes of every parameter and buffer by state-dict name.
    parameters: the names in `state` that are parameters.
    ties: name -> the first name with the same storage, for tensors that several names share.
    constants: tensors that forward made outside the graph, by node name.
    out_spec: how outputs nest, as a pytree spec.
    args, kwargs: the example inputs, kept for the proof.
    calls: calls of torch functions that the model's own numbers reached.
    """

    nodes: tuple[Node, ...]
    state: Mapping[str, Meta]
    parameters: frozenset[str]
    ties: Mapping[str, str]
    constants: Mapping[str, Any] = field(repr=False)
    out_spec: Any = field(repr=False)
    args: tuple[Any, ...] = field(repr=False)
    kwargs: Mapping[str, Any] = field(repr=False)
    calls: tuple[Call, ...] = field(default=(), repr=False)

    @cached_property
    def users(self) -> Mapping[int, tuple[int, ...]]:
        """Node index -> the nodes that read its result, each once, in order; assertions do not count."""
        found: dict[int, dict[int, None]] = {}
        for node in self.nodes:
            for ref in node.refs() if node.value is not None or node.kind == "output" else ():
                found.setdefault(ref.index, {})[node.index] = None
        return {index: tuple(users) for index, users in found.items()}


def as_inputs(args: Any, kwargs: Mapping[str, Any] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Normalise example inputs: a tensor, a tuple of positional arguments, or None with kwargs."""
    if args is None:
        args = ()
    elif not isinstance(args, tuple):
        args = tuple(args) if isinstance(args, list) else (args,)
    if not pytree.tree_leaves((args, dict(kwargs or {}))):
        raise InputError("no example inputs were given; pass a tensor or a tuple that the model's forward takes")
    return args, dict(kwargs or {})


def capture(model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None = None, *, training: bool = False) -> Trace:
    """Capture `model` on example inputs by `torch.export`, not decomposed, in eval mode or as it trains.

    args: a tensor or a tuple of positional arguments; kwargs: keyword arguments.
    The model is left as it was, training flags included.
    Raises CaptureError, naming the cause, where the model cannot be run or exported.
    """
    args, kwargs = as_inputs(args, kwargs)
    check_cuttable(model)
    flags = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        with planting(model) as recorder, torch.no_grad(), _quiet():
            program = torch.export.export(model, args, kwargs, strict=False)
    except Exception as cause:
        raise CaptureError(_export_failure(model, args, kwargs, cause)) from cause
    finally:
        for module, flag in flags.items():
            module.training = flag
    return replace(_record(program, model, args, kwargs), calls=tuple(recorder.calls))


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
    """Say whether the model fails by itself on these inputs or only under capture."""
    name = type(model).__name__
    try:
        with torch.no_grad():
            model(*args, **kwargs)
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
        nodes.append(_record_node(node, len(nodes), index, names))
    if not any(isinstance(nodes[r.index].value, Meta) for r in nodes[-1].refs()):
        raise CaptureError(f"{type(model).__name__} returns no tensor, so there is nothing to compare or to prune")
    state = {k: Meta(tuple(v.shape), v.dtype) for k, v in program.state_dict.items()}
    for name, buffer in model.named_buffers():  # non-persistent ones are cut too, though no file holds them
        state.setdefault(name, Meta(tuple(buffer.shape), buffer.dtype))
    parameters = frozenset(n for n, _ in model.named_parameters(remove_duplicate=False))
    constants = {name: program.constants[name] for kind, name in names.values() if kind == "constant"}
    return Trace(tuple(nodes), state, parameters, _ties(model), constants, program.call_spec.out_spec, args, kwargs)


def _record_node(node: Any, position: int, index: Mapping[Any, int], names: Mapping[str, tuple[str, str]]) -> Node:
    def refer(x: Any) -> Any:
        return Ref(index[x]) if isinstance(x, torch.fx.Node) else x

    if node.op == "placeholder":
        kind, target = names.get(node.name, ("input", node.name))
    elif node.op == "call_function":
        kind, target = "op", node.target
    else:
        kind, target = ("output" if node.op == "output" else "constant"), node.name
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return Node(
        index=position,
        kind=kind,
        target=target,
        args=torch.fx.node.map_aggregate(node.args, refer),
        kwargs=torch.fx.node.map_aggregate(node.kwargs, refer),
        value=_meta(node.meta.get("val")),
        module=stack[-1][0] if stack else "",
        location=_location(node.meta.get("stack_trace") or ""),
        call=(node.meta.get("custom") or {}).get(TAG),
    )


def _check_static(node: Any, model: nn.Module) -> None:
    """Refuse sizes that only values decide (`x[mask]`, nonzero): they are not numbers that a plan could follow."""
    for value in pytree.tree_leaves(node.meta.get("val")):
        if isinstance(value, Tensor) and any(not isinstance(n, int) for n in value.shape):
            raise CaptureError(
                f"{type(model).__name__} makes a tensor whose size depends on values, by {node.target} at "
                f"{_location(node.meta.get('stack_trace') or '')}; Prunus needs sizes that the example inputs decide"
            )


def _meta(value: Any) -> Meta | tuple[Meta | None, ...] | None:
    if isinstance(value, Tensor):
        return Meta(tuple(int(n) for n in value.shape), value.dtype)
    if isinstance(value, (tuple, list)):
        return tuple(m if isinstance(m := _meta(v), Meta) else None for v in value)
    return None


def _location(stack: str) -> str:
    """Return the innermost line that is not torch's own."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', stack)
    own = [f for f in frames if "/torch/" not in f[0].replace("\\", "/")] or frames
    return f"{re.split(r'[/]', own[-1][0].replace(chr(92), '/'))[-1]}:{own[-1][1]}" if own else ""


def _ties(model: nn.Module) -> dict[str, str]:
    """Map each name of a tensor that shares its storage with an earlier one to that one's name."""
    first: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    ties: dict[str, str] = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        if tensor.numel() == 0 or tensor.device.type == "meta":
            continue
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        if key in first:
            ties[name] = first[key]
        first.setdefault(key, name)
    return ties


GETITEM = operator.getitem
