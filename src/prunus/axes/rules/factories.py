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


NUMBERED = "positions are compared by number"


@rule("aten.tril", "aten.triu")
def triangle(ctx: Context, node: Node) -> Value:
    """Zero one side of the diagonal of the last two dimensions; the others are a batch of matrices."""
    x = ctx.value(node.args[0])
    ctx.freeze(x.dims[-2:], NUMBERED, node)
    return x


@rule("aten.diagonal")
def diagonal(ctx: Context, node: Node) -> Value:
    """Take the diagonal of two dimensions, which comes last."""
    x, rank = ctx.value(node.args[0]), len(node.shape) + 1
    pair = {node.arg(2, "dim1", 0) % rank, node.arg(3, "dim2", 1) % rank}
    ctx.freeze([x.dims[i] for i in pair], NUMBERED, node)
    rest, last = [i for i in range(rank) if i not in pair], frozen(node.shape[-1:], because(NUMBERED, node))
    return Value((*(x.dims[i] for i in rest), *last.dims), (*(x.zero[i] for i in rest), *last.zero))


@rule("aten.diag_embed")
def embedded_diagonal(ctx: Context, node: Node) -> Value:
    """Put the last dimension on the diagonal of two new ones."""
    x, rank = ctx.value(node.args[0]), len(node.shape)
    pair = {node.arg(2, "dim1", -2) % rank, node.arg(3, "dim2", -1) % rank}
    ctx.freeze(x.dims[-1], NUMBERED, node)
    new, rest = frozen(node.shape, because(NUMBERED, node)), iter(zip(x.dims, x.zero, strict=True))
    dims, zero = zip(*((new.dims[i], True) if i in pair else next(rest) for i in range(rank)), strict=True)
    return Value(dims, zero)


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
