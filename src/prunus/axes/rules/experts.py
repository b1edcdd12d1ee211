"""Mixtures of experts: tokens in the order of their experts, one weight per expert."""

from __future__ import annotations

from prunus.axes.context import Context, Value, because, frozen
from prunus.axes.rules.pointwise import base_name
from prunus.axes.rules.registry import rule
from prunus.axes.trace import Node, Ref


@rule("aten._grouped_mm", "transformers.grouped_mm_fallback")
def grouped_mm(ctx: Context, node: Node) -> Value:
    """x (T, K), weight (E, K, N), ends (E,) -> (T, N): rows ends[e-1]:ends[e] of x times weight[e]."""
    x, w, ends = (ctx.value(arg) for arg in node.args[:3])
    assert (len(x.dims), len(w.dims)) == (2, 3)
    _role(ctx, node.args[1])
    ctx.freeze((x.dims[0], w.dims[0], *ends.dims), "experts own rows by number", node)
    ctx.contract(x.dims[1], x.zero[1], w.dims[1], w.zero[1], node)
    bias = ctx.optional(node.arg(3, "bias"))
    zero = w.zero[2]
    if bias is not None:
        ctx.unify(bias.dims[-1], w.dims[2], node)
        ctx.freeze(bias.dims[:-1], "experts own rows by number", node)
        zero = zero and bias.zero[-1]
    ctx.macs.append((x.dims[0], w.dims[1], w.dims[2]))
    return Value((x.dims[0], w.dims[2]), (x.zero[0], zero))


def _role(ctx: Context, weight: Ref) -> None:
    """Say which dimension of the experts' weights is which, also where the weight is stored transposed."""
    source = ctx.trace.nodes[weight.index]
    if source.kind == "op" and base_name(source.target) == "transpose":
        ctx.role(source.args[0], "scale", "out", "in")
    ctx.role(weight, "scale", "in", "out")


@rule("aten.histc", "aten.bincount")
def count(ctx: Context, node: Node) -> Value:
    """How many elements fall into each bin: every element counts, and the bins are numbers."""
    for ref in node.refs():
        ctx.freeze(ctx.value(ref).dims, "its elements are counted", node)
    return frozen(node.shape, because("its positions are bins", node))
