"""What an operation's arguments become once a plan has changed the sizes of its axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prunus.axes.algebra import Axis
from prunus.axes.context import Context, Value
from prunus.axes.positions import Kept, size_after
from prunus.axes.rules.pointwise import base_name
from prunus.axes.rules.shape import split_dim
from prunus.axes.trace import Node

aten = torch.ops.aten

RESHAPES = ("view", "reshape", "_unsafe_view", "unflatten", "flatten", "view_as", "reshape_as")
SPLITS = (
    "split", "chunk", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split", "hsplit", "vsplit", "dsplit",
)  # fmt: skip
NORMS = ("layer_norm", "rms_norm")
FACTORIES = {"zeros": 0, "ones": 0, "full": 0, "empty": 0, "new_zeros": 1, "new_ones": 1, "new_full": 1, "new_empty": 1}


@dataclass(frozen=True)
class SizeOf:
    """A number that is read when the graph runs: the size of dimension `dim` of input `index`."""

    index: int
    dim: int


Varying = Mapping[Axis, SizeOf]
"""Axes of the inputs, whose sizes the next batch may change, and where to read them."""


def input_axes(ctx: Context) -> Varying:
    """Return the inputs' axes; where several are one, the first says the size."""
    found: dict[Axis, SizeOf] = {}
    for node in ctx.trace.nodes:
        value = ctx.values[node.index]
        if node.kind == "input" and isinstance(value, Value):
            for dim, axis in enumerate(value.dims):
                found.setdefault(axis.root(), SizeOf(node.index, dim))
    return found


def rewritten(ctx: Context, node: Node, kept: Kept, varying: Varying) -> tuple[Any, tuple[Any, ...], Mapping[str, Any]]:
    """Return the operator, arguments and keyword arguments of `node` after the plan.

    varying: see `input_axes`; their sizes become `SizeOf`, and a reshape leaves the first dimension that holds one of
    them to be inferred, so that the result takes other batch sizes than the example's.
    """
    name, value = base_name(node.target), ctx.values[node.index]
    args = list(node.args)
    for position, axis in ctx.numbers.get(node.index, {}).items():
        args[position] = size_after(axis, kept)
    if name == "histc" and node.index in ctx.numbers:  # one bin for each position, the last one's number ends them
        args[3] = args[1] - 1
    if node.index in ctx.rescaled:
        norm = ctx.rescaled[node.index]
        args += [None] * (norm.position + 1 - len(args))  # an epsilon that was left to torch
        args[norm.position] = norm.eps * norm.axis.root().size / size_after(norm.axis, kept)
    if name in RESHAPES and isinstance(value, Value):
        return aten.reshape.default, (args[0], _open_sizes(value.dims, kept, varying)), {}
    if name in ("expand", "broadcast_to") and isinstance(value, Value):
        return aten.expand.default, (args[0], _expanded(ctx.value(args[0]), value, kept, varying)), {}
    if name in SPLITS and node.index in ctx.pieces:
        sizes = [size_after(piece, kept) for piece in ctx.pieces[node.index]]
        return aten.split_with_sizes.default, (args[0], sizes, split_dim(node, len(ctx.value(args[0]).dims))), {}
    if name in ("slice", "narrow") and node.index in ctx.pieces:
        start, length = (size_after(piece, kept) for piece in ctx.pieces[node.index][:2])
        return aten.slice.Tensor, (args[0], node.arg(1, "dim", 0), start, start + length), {}
    if name in NORMS and isinstance(value, Value):
        args[1] = [size_after(axis, kept) for axis in value.dims[len(value.dims) - len(args[1]) :]]
    if name == "scaled_dot_product_attention" and node.index in ctx.pinned.keys() - ctx.absorbed.keys():
        return node.target, tuple(args), {**node.kwargs, "scale": ctx.pinned[node.index].root().size ** -0.5}
    if name in FACTORIES and isinstance(value, Value):
        args[FACTORIES[name]] = _sizes(value.dims, kept, varying)
    if name in ("repeat", "tile") and isinstance(value, Value):
        args[1] = _repeats(ctx.value(args[0]), value, kept)
    return node.target, tuple(args), node.kwargs


def _sizes(dims: Sequence[Axis], kept: Kept, varying: Varying) -> list[int | SizeOf]:
    return [varying.get(axis.root()) or size_after(axis, kept) for axis in dims]


def _open_sizes(dims: Sequence[Axis], kept: Kept, varying: Varying) -> list[int | SizeOf]:
    sizes = _sizes(dims, kept, varying)
    for i, axis in enumerate(dims):
        if any(leaf in varying for leaf in axis.leaves()):
            sizes[i] = -1
            break
    return sizes


def _expanded(source: Value, value: Value, kept: Kept, varying: Varying) -> list[int | SizeOf]:
    """Spell every dimension that is only passed on as -1."""
    lead = len(value.dims) - len(source.dims)
    sizes = _sizes(value.dims, kept, varying)
    for i, axis in enumerate(source.dims):
        if axis.size == value.dims[lead + i].size:
            sizes[lead + i] = -1
    return sizes


def _repeats(source: Value, value: Value, kept: Kept) -> list[int]:
    lead = len(value.dims) - len(source.dims)
    after = [size_after(axis, kept) for axis in value.dims]
    return [n if i < lead else n // size_after(source.dims[i - lead], kept) for i, n in enumerate(after)]


def is_assertion(node: Node) -> bool:
    """Tell whether an operation only checks what the example had: shapes, dtypes, devices."""
    return node.kind == "op" and node.value is None and "assert" in node.op
