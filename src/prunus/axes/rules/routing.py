"""Routers: what chooses among the matrices of a stack, and the numbers of those that it chose.

A position that is removed is one that the router can never choose: its logit is minus infinity. So a softmax gives it
0, the largest k leave it out, and a tensor of chosen positions never holds its number. `Value.points` says of such a
tensor whose positions its elements are. They may be moved, sorted, counted, and used to take, to write, or to spread
over that very axis; whatever else reads them freezes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from prunus.axes.algebra import Axis
from prunus.axes.context import Context, Value, because, frozen
from prunus.axes.rules.factories import HANDED_ON
from prunus.axes.rules.pointwise import base_name
from prunus.axes.rules.registry import Result
from prunus.axes.trace import Meta, Node, Ref

TAKEN = "positions are taken by index"
MIXED = "its positions are mixed or ordered"
# Operations that hand on the elements of their first argument.
MOVES = (
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "t",
    "expand", "broadcast_to", "repeat", "repeat_interleave", "slice", "narrow", "select", "unbind", "split", "chunk",
    *HANDED_ON,
)  # fmt: skip
# Operations with a rule for positions that a router chose, and the argument that holds them.
READS = {
    "index": 1, "index_select": 2, "gather": 2, "take_along_dim": 1, "embedding": 1, "scatter": 2, "scatter_add": 2,
    "scatter_reduce": 2, "one_hot": 0, "histc": 0, "bincount": 0,
}  # fmt: skip
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
SHAPES = ("zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_ones", "new_full", "new_empty")


def is_routing(ctx: Context, x: Value, dim: int) -> bool:
    """Tell whether what is weighed or ordered along `dim` may turn out to be a router's scores; see `confirm`."""
    return x.points is None and not ctx.trace.concrete and not x.dims[dim].is_frozen()


def weighed(ctx: Context, node: Node, x: Value, dim: int) -> Value:
    """Take the softmax over what can be chosen: 0 for the rest."""
    ctx.routed[node.index] = x.dims[dim]
    return Value(x.dims, tuple(i == dim for i in range(len(x.dims))))


def best(ctx: Context, node: Node, x: Value, dim: int) -> Result:
    """Return the largest scores along `dim`, in order, and whose they are."""
    ctx.routed[node.index] = x.dims[dim]
    metas = node.value if isinstance(node.value, tuple) else (node.value,)
    first = metas[0]
    assert isinstance(first, Meta)
    keeps = len(first.shape) == len(x.dims)
    chosen = first.shape[dim] if keeps else 1
    ctx.floors.append((x.dims[dim], chosen))
    order = frozen([chosen] if keeps else [], because(MIXED, node)).dims
    value = Value((*x.dims[:dim], *order, *x.dims[dim + 1 :]), (False,) * len(first.shape))
    where = replace(value, points=x.dims[dim])
    return (value, where) if isinstance(node.value, tuple) else where


def take_chosen(ctx: Context, node: Node, source: Ref, dim: int, where: Value) -> None:
    """Positions of `dim` are taken by index: what a router chose among goes together, all else keeps its positions."""
    axis = ctx.value(source).dims[dim]
    if where.points is None:
        ctx.freeze(axis, TAKEN, node)
        return
    ctx.unify(axis, where.points, node)
    note_stack(ctx, source, [dim])


def note_stack(ctx: Context, weight: object, dims: Iterable[int]) -> None:
    """Remember along which dimensions a parameter of three or more is a stack of matrices."""
    if not isinstance(weight, Ref) or len(ctx.value(weight).dims) < 3:
        return
    node = ctx.trace.nodes[weight.index]
    while node.kind == "op" and base_name(node.target) in (*HANDED_ON, "transpose", "permute", "mT"):
        node = ctx.trace.nodes[node.args[0].index]
    if node.kind == "parameter":
        ctx.stacks.extend(ctx.value(weight).dims[dim] for dim in dims)


def follow(ctx: Context, node: Node, result: Result) -> Result:
    """Let chosen positions pass where an operation only moves them; freeze what they are positions of elsewhere."""
    name = base_name(node.target)
    pointed = [ref for ref in node.refs() if (v := ctx.values[ref.index]) and isinstance(v, Value) and v.points]
    if not pointed or name in SHAPES:
        return result
    first = ctx.value(node.args[0]).points if isinstance(node.args[0], Ref) else None
    if name == "argsort":
        return result
    if name == "sort" and first is not None and isinstance(result, tuple):
        return (*_all_hold(result[:1], first), *result[1:])
    if name in COMPARISONS and pointed == list(node.args[:2]):  # the order of those that stay does not change
        _as_one(ctx, node, pointed)
        return result
    if name in ("cat", "concat", "concatenate") and len(pointed) == len(node.args[0]):
        assert isinstance(result, Value)
        return replace(result, points=_as_one(ctx, node, pointed))
    moves = pointed == [node.args[0]] and name in (*MOVES, "index", "index_select", "gather")
    if moves and first is not None and _can_hold(node, first):
        return _all_hold(result, first) if isinstance(result, tuple) else replace(result, points=first)
    read = node.args[READS[name]] if name in READS and len(node.args) > READS[name] else ()
    for ref in read if isinstance(read, (list, tuple)) else [read]:
        if ref in pointed:  # once: the same tensor may also be what is written
            pointed.remove(ref)
    for ref in pointed:
        ctx.freeze(_as_one(ctx, node, [ref]), "the numbers of its positions are read", node)
    return result


def _all_hold(values: tuple[Value | None, ...], axis: Axis) -> tuple[Value | None, ...]:
    return tuple(value and replace(value, points=axis) for value in values)


def _as_one(ctx: Context, node: Node, refs: Sequence[Ref]) -> Axis:
    """State that tensors hold positions of one axis, and return it."""
    first, *rest = (points for ref in refs if (points := ctx.value(ref).points) is not None)
    for other in rest:
        ctx.unify(first, other, node)
    return first


def _can_hold(node: Node, axis: Axis) -> bool:
    """Tell whether the result's type holds every position of an axis as it is."""
    meta = node.value[0] if isinstance(node.value, tuple) else node.value
    assert isinstance(meta, Meta)
    if meta.dtype is torch.bool or meta.dtype.is_complex:
        return False
    if meta.dtype.is_floating_point:
        return axis.size <= 1 / torch.finfo(meta.dtype).eps
    return axis.size <= torch.iinfo(meta.dtype).max


def confirm(ctx: Context) -> None:
    """Keep whole what was taken for a router's choice and is none: nothing but the matrices of a stack is an expert.

    Where experts are chosen group by group, the groups stay, so that a group's number of experts says what is left.
    """
    stacked = {leaf for axis in ctx.stacks for leaf in axis.leaves()}
    for index, axis in ctx.routed.items():
        if not stacked.issuperset(axis.leaves()):
            ctx.freeze(axis, MIXED, ctx.trace.nodes[index])
            continue
        largest = max(axis.leaves(), key=lambda leaf: (leaf.reason is None, leaf.size))
        for leaf in axis.leaves():
            if leaf is not largest:
                ctx.freeze(leaf, "its positions are groups among which a router chooses", ctx.trace.nodes[index])
        ctx.kinds.append((axis, "expert"))
    for leaf, least in minima(ctx).items():
        if least >= leaf.size and leaf.reason is None:
            leaf.freeze(f"a router chooses {least} of its {leaf.size} positions")


def minima(ctx: Context) -> dict[Axis, int]:
    """Return how many positions of each axis have to stay so that a router still finds as many as it chooses."""
    found: dict[Axis, int] = {}
    for axis, chosen in ctx.floors:
        for leaf in axis.leaves():
            found[leaf] = max(found.get(leaf, 1), -(-chosen * leaf.size // axis.size))
    return found
