"""Grouped products of experts: tokens in the order of their experts, one weight per expert."""

from __future__ import annotations

from prunus.axes.context import Context, Value, because, frozen
from prunus.axes.rules.factories import HANDED_ON
from prunus.axes.rules.pointwise import base_name
from prunus.axes.rules.registry import rule
from prunus.axes.trace import Node, Ref

OWN = "experts own rows by number"


@rule("aten._grouped_mm", "transformers.grouped_mm_fallback", "prunus.grouped_mm")
def grouped_mm(ctx: Context, node: Node) -> Value:
    """x (T, K), weight (E, K, N), ends (E,) -> (T, N): rows ends[e-1]:ends[e] of x times weight[e]."""
    x, w, ends = (ctx.value(arg) for arg in node.args[:3])
    assert (len(x.dims), len(w.dims)) == (2, 3)
    _role(ctx, node.args[1])
    ctx.freeze(x.dims[0], OWN, node)
    if _counts_chosen(ctx, node.args[2]):
        ctx.unify(w.dims[0], ends.dims[0], node)
        ctx.stacks.append(w.dims[0])
    else:
        ctx.freeze((w.dims[0], *ends.dims), OWN, node)
    ctx.contract(x.dims[1], x.zero[1], w.dims[1], w.zero[1], node)
    bias = ctx.optional(node.arg(3, "bias"))
    zero = w.zero[2]
    if bias is not None:
        ctx.unify(bias.dims[-1], w.dims[2], node)
        for axis in bias.dims[:-1]:
            ctx.unify(axis, w.dims[0], node)
        zero = zero and bias.zero[-1]
    ctx.macs.append((x.dims[0], w.dims[1], w.dims[2]))
    return Value((x.dims[0], w.dims[2]), (x.zero[0], zero))


def _role(ctx: Context, weight: Ref) -> None:
    """Say which dimension of the experts' weights is which, also where the weight is stored transposed."""
    source = ctx.trace.nodes[weight.index]
    if source.kind == "op" and base_name(source.target) == "transpose":
        ctx.role(source.args[0], "scale", "out", "in")
    ctx.role(weight, "scale", "in", "out")


def _counts_chosen(ctx: Context, ends: Ref) -> bool:
    """Tell whether rows end where a running sum says, over counts that are zero for what can never be chosen."""
    node = ctx.trace.nodes[ends.index]
    while node.kind == "op" and base_name(node.target) in HANDED_ON:
        node = ctx.trace.nodes[node.args[0].index]
    if node.kind != "op" or node.op != "aten.cumsum":
        return False
    counts = ctx.value(node.args[0])
    return len(counts.dims) == 1 and counts.zero[0]


@rule("aten.histc", "aten.bincount")
def count(ctx: Context, node: Node) -> Value:
    """How many elements fall into each bin: every element counts, and the bins are numbers, or a router's choices."""
    x = ctx.value(node.args[0])
    for ref in node.refs():
        ctx.freeze(ctx.value(ref).dims, "its elements are counted", node)
    if x.points is not None:
        if node.args[1:] == (x.points.size, 0, x.points.size - 1):  # one bin each
            ctx.numbers[node.index] = {1: x.points}
            return Value((x.points,), (True,))
        ctx.freeze(x.points, "its positions are bins", node)
    return frozen(node.shape, because("its positions are bins", node))
