"""Products, distances and similarities that are neither a linear layer nor a matrix product."""

from __future__ import annotations

from prunus.axes.algebra import Axis, product
from prunus.axes.context import Context, Value
from prunus.axes.rules.contraction import batched
from prunus.axes.rules.registry import rule
from prunus.axes.trace import Node


def _with_bias(ctx: Context, node: Node, result: Value) -> Value:
    """Add the first argument unless beta is 0."""
    bias = ctx.value(node.args[0])
    if node.kwargs.get("beta", 1) == 0:
        return result
    lead = len(result.dims) - len(bias.dims)
    zero = [False] * len(result.dims)
    for i, (axis, flag) in enumerate(zip(bias.dims, bias.zero, strict=True), start=lead):
        if axis.size == result.dims[i].size:
            ctx.unify(axis, result.dims[i], node)
            zero[i] = flag and result.zero[i]
    return Value(result.dims, tuple(zero))


@rule("aten.addmv")
def addmv(ctx: Context, node: Node) -> Value:
    """bias (M,) + x (M, K) @ y (K,)."""
    x, y = ctx.value(node.args[1]), ctx.value(node.args[2])
    ctx.role(node.args[1], "out", "in")
    ctx.contract(x.dims[1], x.zero[1], y.dims[0], y.zero[0], node)
    ctx.macs.append(x.dims)
    return _with_bias(ctx, node, Value(x.dims[:1], x.zero[:1]))


@rule("aten.addbmm")
def addbmm(ctx: Context, node: Node) -> Value:
    """bias (M, N) + sum over b of x (B, M, K) @ y (B, K, N)."""
    x, y = ctx.value(node.args[1]), ctx.value(node.args[2])
    for i, j in ((0, 0), (2, 1)):
        ctx.contract(x.dims[i], x.zero[i], y.dims[j], y.zero[j], node)
    ctx.macs.append((*x.dims, y.dims[2]))
    return _with_bias(ctx, node, Value((x.dims[1], y.dims[2]), (x.zero[1], y.zero[2])))


@rule("aten.addr")
def addr(ctx: Context, node: Node) -> Value:
    """bias (M, N) + the outer product of x (M,) and y (N,)."""
    x, y = ctx.value(node.args[1]), ctx.value(node.args[2])
    return _with_bias(ctx, node, Value((*x.dims, *y.dims), (*x.zero, *y.zero)))


@rule("aten.outer", "aten.ger")
def outer(ctx: Context, node: Node) -> Value:
    """x (M,), y (N,) -> (M, N)."""
    x, y = ctx.value(node.args[0]), ctx.value(node.args[1])
    return Value((*x.dims, *y.dims), (*x.zero, *y.zero))


@rule("aten.kron")
def kron(ctx: Context, node: Node) -> Value:
    """Dimension by dimension, the positions of x times those of y; zero where the factor that is removed is."""
    x, y = ctx.value(node.args[0]), ctx.value(node.args[1])
    rank = max(len(x.dims), len(y.dims))
    pairs = [
        [(v.dims[i], v.zero[i]) if len(v.dims) >= -i else (Axis(1), True) for v in (x, y)] for i in range(-rank, 0)
    ]
    dims = tuple(product([axis for axis, _ in pair]) for pair in pairs)
    return Value(dims, tuple(all(zero for axis, zero in pair if axis.size > 1) for pair in pairs))


@rule("aten.tensordot", "aten.inner", "aten.vdot")
def tensordot(ctx: Context, node: Node) -> Value:
    """Sum products over the dimensions named, the last ones of `inner`; the others follow, first x's, then y's."""
    x, y = ctx.value(node.args[0]), ctx.value(node.args[1])
    left, right = (node.args[2], node.args[3]) if "tensordot" in node.op else ([-1], [-1])
    left, right = [d % len(x.dims) for d in left], [d % len(y.dims) for d in right]
    for i, j in zip(left, right, strict=True):
        ctx.contract(x.dims[i], x.zero[i], y.dims[j], y.zero[j], node)
    rest = [(v.dims[i], v.zero[i]) for v, used in ((x, left), (y, right)) for i in range(len(v.dims)) if i not in used]
    ctx.macs.append((*(axis for axis, _ in rest), *(x.dims[i] for i in left)))
    return Value(tuple(axis for axis, _ in rest), tuple(zero for _, zero in rest))


@rule("aten.bilinear")
def bilinear(ctx: Context, node: Node) -> Value:
    """x (..., I), y (..., J), weight (O, I, J), bias (O,) -> (..., O)."""
    x, y, w = (ctx.value(arg) for arg in node.args[:3])
    ctx.role(node.args[2], "out", "in", "in")
    for i, v in ((1, x), (2, y)):
        ctx.contract(v.dims[-1], v.zero[-1], w.dims[i], w.zero[i], node)
    for ours, theirs in zip(x.dims[:-1], y.dims[:-1], strict=True):
        ctx.unify(ours, theirs, node)
    bias, zero = ctx.optional(node.arg(3, "bias")), w.zero[0]
    if bias is not None:
        ctx.role(node.arg(3, "bias"))
        ctx.unify(bias.dims[0], w.dims[0], node)
        zero = zero and bias.zero[0]
    ctx.macs.append((*x.dims[:-1], *w.dims))
    return Value((*x.dims[:-1], w.dims[0]), (*(False for _ in x.dims[:-1]), zero))


@rule("aten.cosine_similarity")
def cosine(ctx: Context, node: Node) -> Value:
    """Sum products over `dim` and divide by both norms: both lose zeros only; x / max(0, eps) of 0 is 0."""
    x, y = ctx.value(node.args[0]), ctx.value(node.args[1])
    dim = node.arg(2, "dim", 1) % max(len(x.dims), len(y.dims))
    assert len(x.dims) == len(y.dims)
    ctx.unify(x.dims[dim], y.dims[dim], node)
    if not (x.zero[dim] and y.zero[dim]):
        ctx.freeze(x.dims[dim], "a norm over it would lose terms that are not zero", node)
    both = [Value((*v.dims[:dim], *v.dims[dim + 1 :]), (*v.zero[:dim], *v.zero[dim + 1 :])) for v in (x, y)]
    return batched(ctx, node, *both)


@rule("aten.pairwise_distance")
def pairwise(ctx: Context, node: Node) -> Value:
    """Norm of x - y + eps over the last dimension: epsilon counts its positions."""
    x, y = ctx.value(node.args[0]), ctx.value(node.args[1])
    ctx.unify(x.dims[-1], y.dims[-1], node)
    ctx.freeze(x.dims[-1], "an epsilon is added at each of its positions", node)
    lead = batched(ctx, node, Value(x.dims[:-1], x.zero[:-1]), Value(y.dims[:-1], y.zero[:-1]))
    keepdim = [Axis(1)] if len(node.shape) > len(lead.dims) else []
    return Value((*lead.dims, *keepdim), (False,) * len(node.shape))


@rule("aten.cdist", "aten._cdist_forward")
def distances(ctx: Context, node: Node) -> Value:
    """x (..., P, M), y (..., R, M) -> (..., P, R): a sum over M loses zeros where both are zero, for finite p > 0."""
    x, y, p = ctx.value(node.args[0]), ctx.value(node.args[1]), node.arg(2, "p", 2.0)
    ctx.unify(x.dims[-1], y.dims[-1], node)
    if not (x.zero[-1] and y.zero[-1] and 0 < p < float("inf")):
        ctx.freeze(x.dims[-1], "a distance along it would lose terms that are not zero", node)
    lead = batched(ctx, node, Value(x.dims[:-2], x.zero[:-2]), Value(y.dims[:-2], y.zero[:-2]))
    ctx.macs.append((*lead.dims, x.dims[-2], y.dims[-2], x.dims[-1]))
    return Value((*lead.dims, x.dims[-2], y.dims[-2]), (False,) * len(node.shape))
