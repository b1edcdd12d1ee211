"""The record of a captured model: a list of operations over named tensors.

The record is ours, not `torch.fx`'s, so that the rules depend on operations, arguments, shapes and names alone, and
another way to capture can stand in for `torch.export`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.axes.planted import TAG, Call, Match
from prunus.errors import InputError


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
    call: which of the trace's calls made it.
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
    calls: the calls of torch functions that made the nodes.
    matches: the model's own numbers that its code found equal to sizes.
    concrete: whether the operations are those of this one example, because values decide which ones run.
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
    matches: tuple[Match, ...] = field(default=(), repr=False)
    concrete: bool = False

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


def record_node(node: Any, position: int, index: Mapping[Any, int], names: Mapping[str, tuple[str, str]]) -> Node:
    """Turn a node of `torch.fx` into ours; `names` says which placeholders are parameters, buffers or constants."""

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
        location=location_of(node.meta.get("stack_trace") or ""),
        call=(node.meta.get("custom") or {}).get(TAG),
    )


def _meta(value: Any) -> Meta | tuple[Meta | None, ...] | None:
    if isinstance(value, Tensor):
        return Meta(tuple(int(n) for n in value.shape), value.dtype)
    if isinstance(value, (tuple, list)):
        return tuple(m if isinstance(m := _meta(v), Meta) else None for v in value)
    return None


def location_of(stack: str) -> str:
    """Return the innermost line that is not torch's own."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', stack)
    own = [f for f in frames if "/torch/" not in f[0].replace("\\", "/")] or frames
    return f"{re.split(r'[/]', own[-1][0].replace(chr(92), '/'))[-1]}:{own[-1][1]}" if own else ""


def ties_of(model: nn.Module) -> dict[str, str]:
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
