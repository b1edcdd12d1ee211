"""Tensors out of nothing: constant ones follow what they meet, counted ones keep their positions."""

from __future__ import annotations

from prunus.axes.context import Context, Value, because, fresh, frozen
from prunus.axes.rules.pointwise import base_name
from prunus.axes.rules.registry import rule
from prunus.axes.trace import Node, Ref

WINDOWS = [f"aten.{name}_window" for name in ("hann", "hamming", "blackman", "bartlett", "kaiser")]


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


@rule("aten.arange", "aten.linspace", "aten.logspace", "aten.eye", "aten.tril_indices", "aten.triu_indices", *WINDOWS)
def counted(ctx: Context, node: Node) -> Value:
    """The value is the position's number."""
    return frozen(node.shape, because("its values are position numbers", node))


@rule("aten.tril", "aten.triu", "aten.diagonal", "aten.diag_embed")
def diagonal(ctx: Context, node: Node) -> Value:
    """The last two dimensions are compared by position number."""
    x = ctx.value(node.args[0])
    ctx.freeze(x.dims, "positions are compared by number", node)
    return frozen(node.shape, because("positions are compared by number", node))


HANDED_ON = ("to", "_to_copy", "contiguous", "clone", "detach", "alias", "lift_fresh_copy")


def is_all_zero(ctx: Context, arg: object) -> bool:
    """Tell whether a number, or a tensor made in this forward and written to by nothing, is zero everywhere."""
    if not isinstance(arg, Ref):
        return arg == 0
    node = ctx.trace.nodes[arg.index]
    while node.kind == "op" and base_name(node.target) in HANDED_ON:
        node = ctx.trace.nodes[node.args[0].index]
    if node.kind == "constant":
        return not ctx.trace.constants[node.target].count_nonzero()
    made_of_zeros = node.kind == "op" and base_name(node.target) in ("zeros", "new_zeros", "zeros_like")
    return made_of_zeros and not any(
        _may_write(reader) for reader in ctx.trace.nodes if Ref(node.index) in reader.refs()
    )


def _may_write(node: Node) -> bool:
    """Tell whether an operation writes to its argument, or returns a view through which others may."""
    schema = getattr(node.target, "_schema", None)
    aliases = schema is not None and any(result.alias_info is not None for result in schema.returns)
    return aliases and base_name(node.target) not in HANDED_ON
