"""Normalisations: what is divided by statistics of what."""

from __future__ import annotations

from collections.abc import Sequence

from prunus.axes.algebra import Axis, product
from prunus.axes.context import Context, Value
from prunus.axes.rules.registry import rule
from prunus.axes.rules.rms import of_operation
from prunus.axes.trace import Node


def _affine(ctx: Context, node: Node, axes: Sequence[Axis], params: Sequence[object]) -> bool | None:
    """Couple per-channel parameters with `axes`; tell whether they are zero where removed (None: there are none)."""
    flags: list[bool] = []
    for param in params:
        value = ctx.optional(param)
        if value is None:
            continue
        ctx.role(param)
        for axis, own in zip(axes, value.dims, strict=True):
            ctx.unify(axis, own, node)
        flags.extend(value.zero)
    return all(flags) if flags else None


@rule("aten.batch_norm", "aten._native_batch_norm_legit_no_training", "aten.instance_norm")
def channel_norm(ctx: Context, node: Node) -> Value:
    """Statistics per channel: a removed channel takes its scale and shift along and leaves exactly 0."""
    x = ctx.value(node.args[0])
    ctx_flags = _affine(ctx, node, [x.dims[1]], node.args[1:3])
    _affine(ctx, node, [x.dims[1]], node.args[3:5])
    if "no_training" not in node.op and node.args[5]:  # statistics of the batch, as weights are standardised
        batch = () if "instance" in node.op else x.dims[:1]
        ctx.count((*batch, *x.dims[2:]), "a mean and a variance count it", node)
    ctx.attributes[node.module, "num_features"] = x.dims[1]
    keeps = x.zero[1] if ctx_flags is None else ctx_flags
    counted = node.index in ctx.approximate
    return Value(x.dims, (*(counted for _ in x.dims[:1]), keeps, *(counted for _ in x.dims[2:])))


@rule("aten.group_norm")
def group_norm(ctx: Context, node: Node) -> Value:
    """Statistics per group of channels: whole groups may go; a slot within all groups only as another function."""
    x, groups = ctx.value(node.args[0]), node.args[1]
    group, slot = Axis(groups), Axis(x.dims[1].size // groups)
    ctx.unify(x.dims[1], product([group, slot]), node)
    ctx.count(slot, "a group's mean and variance count it", node)
    flag = _affine(ctx, node, [x.dims[1]], (node.arg(2, "weight"), node.arg(3, "bias")))
    ctx.number(node, 1, "num_groups", group)
    ctx.attributes[node.module, "num_channels"] = x.dims[1]
    keeps = x.zero[1] if flag is None else flag
    keeps = keeps or node.index in ctx.approximate
    return Value(x.dims, (*(False for _ in x.dims[:1]), keeps, *(False for _ in x.dims[2:])))


@rule("aten.layer_norm", "aten.rms_norm")
def layer_norm(ctx: Context, node: Node) -> Value:
    """Statistics over the last dimensions: a removed position changes all others, unless a weight makes up for it."""
    x, outer = ctx.value(node.args[0]), len(ctx.value(node.args[0]).dims) - len(node.args[1])
    inner = x.dims[outer:]
    ctx.kinds.extend((axis, "hidden") for axis in inner)
    rescaled = of_operation(ctx, node, inner[0]) if _sums_zeros(ctx, node, x, len(inner)) else None
    if rescaled is None:
        ctx.count(inner, "a mean or a variance counts it", node)
    else:
        ctx.rescaled[rescaled.node] = rescaled
    flag = _affine(ctx, node, inner, (node.arg(2, "weight"), node.arg(3, "bias")))
    shifted = node.arg(3, "bias") is not None and "layer" in node.op
    keeps = flag if flag is not None else rescaled is not None or node.index in ctx.approximate
    return Value(x.dims, (*(z and not shifted for z in x.zero[:outer]), *(keeps for _ in inner)))


def _sums_zeros(ctx: Context, node: Node, x: Value, count: int) -> bool:
    """Tell whether a mean of squares over one axis, whose removed positions are zero, may be rescaled."""
    return ctx.inexact != "forbid" and "rms" in node.op and count == 1 and x.zero[-1] and not x.dims[-1].is_frozen()
