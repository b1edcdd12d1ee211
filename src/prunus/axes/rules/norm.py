"""Normalisations: what is divided by statistics of what."""

from __future__ import annotations

from collections.abc import Sequence

from prunus.axes.algebra import Axis, product
from prunus.axes.context import Context, Value
from prunus.axes.rules.registry import rule
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
    ctx.attributes[node.module, "num_features"] = x.dims[1]
    keeps = x.zero[1] if ctx_flags is None else ctx_flags
    return Value(x.dims, (*(False for _ in x.dims[:1]), keeps, *(False for _ in x.dims[2:])))


@rule("aten.group_norm")
def group_norm(ctx: Context, node: Node) -> Value:
    """Statistics per group of channels: whole groups may go, a slot within a group may not."""
    x, groups = ctx.value(node.args[0]), node.args[1]
    group, slot = Axis(groups), Axis(x.dims[1].size // groups)
    ctx.unify(x.dims[1], product([group, slot]), node)
    ctx.freeze(slot, "a group's mean and variance count it", node)
    flag = _affine(ctx, node, [x.dims[1]], (node.arg(2, "weight"), node.arg(3, "bias")))
    ctx.number(node, 1, "num_groups", group)
    ctx.attributes[node.module, "num_channels"] = x.dims[1]
    keeps = x.zero[1] if flag is None else flag
    return Value(x.dims, (*(False for _ in x.dims[:1]), keeps, *(False for _ in x.dims[2:])))


@rule("aten.layer_norm", "aten.rms_norm")
def layer_norm(ctx: Context, node: Node) -> Value:
    """Statistics over the last dimensions: removing a position changes all the others."""
    x = ctx.value(node.args[0])
    inner = x.dims[len(x.dims) - len(node.args[1]) :]
    ctx.freeze(inner, "a mean or a variance counts it", node)
    _affine(ctx, node, inner, (node.arg(2, "weight"), node.arg(3, "bias")))
    shifted = node.arg(3, "bias") is not None and "layer" in node.op
    return x.with_zero(not shifted)
