"""Tensors out of nothing: constant ones follow what they meet, counted ones keep their positions."""

from __future__ import annotations

from prunus.axes.context import Context, Value, because, fresh, frozen
from prunus.axes.rules.registry import rule
from prunus.axes.trace import Node


@rule("aten.zeros", "aten.new_zeros")
def zeros(ctx: Context, node: Node) -> Value:
    """Zeros are zero wherever positions go."""
    return fresh(node.shape)


@rule(
    "aten.ones",
    "aten.full",
    "aten.new_ones",
    "aten.new_full",
    "aten.scalar_tensor",
    "aten.empty.memory_format",
    "aten.new_empty",
)
def constant(ctx: Context, node: Node) -> Value:
    """One value everywhere: any position may go, none is known to be zero."""
    return fresh(node.shape, zero=False)


@rule("aten.arange", "aten.linspace", "aten.logspace", "aten.eye", "aten.tril_indices", "aten.triu_indices")
def counted(ctx: Context, node: Node) -> Value:
    """The value is the position's number."""
    return frozen(node.shape, because("its values are position numbers", node))


@rule("aten.tril", "aten.triu", "aten.diagonal", "aten.diag_embed")
def diagonal(ctx: Context, node: Node) -> Value:
    """The last two dimensions are compared by position number."""
    x = ctx.value(node.args[0])
    ctx.freeze(x.dims, "positions are compared by number", node)
    return frozen(node.shape, because("positions are compared by number", node))
