"""Reductions and scans: a sum may lose zeros, a mean may not lose a count, an order may not lose anything."""

from __future__ import annotations

from prunus.axes.algebra import Axis
from prunus.axes.context import Context, Value
from prunus.axes.rules.registry import Result, rule
from prunus.axes.rules.rms import of_mean
from prunus.axes.rules.routing import best, is_routing, weighed
from prunus.axes.trace import Meta, Node

COUNTS = ("aten.mean", "aten.var", "aten.std")
SUMS = ("aten.sum", "aten.linalg_vector_norm", "aten.linalg_norm", "aten.norm", "aten.nansum", "aten.count_nonzero")


@rule(
    "aten.sum", "aten.nansum", "aten.mean", "aten.amax", "aten.amin", "aten.max.dim", "aten.min.dim",
    "aten.max.default",
    "aten.min.default", "aten.var", "aten.std", "aten.var_mean", "aten.std_mean", "aten.argmax", "aten.argmin",
    "aten.any", "aten.all", "aten.logsumexp", "aten.linalg_vector_norm", "aten.norm", "aten.prod", "aten.median",
    "aten.count_nonzero", "aten.aminmax", "aten.linalg_norm",
)  # fmt: skip
def reduce(ctx: Context, node: Node) -> Result:
    """Reduce dimensions; zeros along the remaining ones stay zero for the reductions that map 0 to 0."""
    x = ctx.value(node.args[0])
    reduced = _reduced_dims(node, len(x.dims))
    if node.op.startswith(("aten.max.dim", "aten.argmax")) and len(reduced) == 1 and is_routing(ctx, x, *reduced):
        return best(ctx, node, x, *reduced)
    adds = node.op.startswith(SUMS) and _is_a_sum_of_powers(node, len(reduced))
    for dim in reduced:
        if not (adds and x.zero[dim]):
            _reduce_away(ctx, node, x, dim, adds, len(reduced))
    keeps = not any(word in node.op for word in ("arg", "logsumexp", "prod", "all", "median"))
    result = node.value[0] if isinstance(node.value, tuple) else node.value
    assert isinstance(result, Meta)
    keepdim = len(result.shape) == len(x.dims)
    dims = [Axis(1) if i in reduced else a for i, a in enumerate(x.dims) if keepdim or i not in reduced]
    zero = [i in reduced or (z and keeps) for i, z in enumerate(x.zero) if keepdim or i not in reduced]
    value = Value(tuple(dims), tuple(zero))
    return (value,) * len(node.value) if isinstance(node.value, tuple) else value


def _reduce_away(ctx: Context, node: Node, x: Value, dim: int, adds: bool, num_reduced: int) -> None:
    """Settle what may happen to an axis whose reduction is not blind to the positions that go."""
    axis = x.dims[dim]
    if adds:
        ctx.freeze(axis, "a sum over it would lose terms that are not zero", node)
        return
    counts = node.op.startswith(COUNTS)
    if counts and "mean" in node.op and ctx.inexact != "forbid" and num_reduced == 1 and x.zero[dim]:
        rescaled = None if axis.is_frozen() else of_mean(ctx, node, axis)
        if rescaled is not None:
            ctx.rescaled[rescaled.node] = rescaled
            ctx.kinds.append((axis, "hidden"))
            return
    if counts:
        ctx.count(axis, "the mean or variance counts it", node)
    else:
        ctx.freeze(axis, "the reduction counts or compares it", node)


def _reduced_dims(node: Node, rank: int) -> set[int]:
    position = 2 if "norm" in node.op else 1
    overload = node.op.rpartition(".")[2]
    dim = node.arg(position, "dim", None)
    if overload in ("max", "min", "any", "all", "sum", "mean") or dim is None or dim == [] or isinstance(dim, bool):
        return set(range(rank))  # a bool there is the `unbiased` of var.default and std.default
    return {d % rank for d in ([dim] if isinstance(dim, int) else dim)}


def _is_a_sum_of_powers(node: Node, num_reduced: int) -> bool:
    """A p-norm is one for finite p > 0; the maximum norm and the count of the 0-norm are orders and counts.

    Over two dimensions, `linalg.norm` of a given order is that of a matrix.
    """
    if "norm" not in node.op:
        return True
    p = node.arg(1, "ord" if "linalg" in node.op else "p", 2)
    if node.op.startswith("aten.linalg_norm") and (p is None or num_reduced > 1):
        return p is None
    return isinstance(p, (int, float)) and 0 < p < float("inf")


@rule(
    "aten.softmax.int", "aten._softmax", "aten.log_softmax.int", "aten._log_softmax", "aten.cumsum", "aten.cumprod",
    "aten.sort", "aten.argsort", "aten.topk", "aten.logcumsumexp", "aten.cummax", "aten.diff", "aten.msort",
)  # fmt: skip
def scan(ctx: Context, node: Node) -> Result:
    """Mix along one dimension, which keeps all its positions; the others pass.

    Running sums lose nothing where zeros go. A softmax and the largest k may be a router's.
    """
    x = ctx.value(node.args[0])
    dim = node.arg(2 if "topk" in node.op or "diff" in node.op else 1, "dim", -1)
    dim = 0 if "msort" in node.op else -1 if isinstance(dim, bool) else dim
    dim %= max(1, len(x.dims))
    if node.op == "aten.cumsum" and x.zero[dim]:
        return Value(x.dims, tuple(z and i != dim for i, z in enumerate(x.zero)))
    if node.op in ("aten.softmax.int", "aten._softmax") and is_routing(ctx, x, dim):
        return weighed(ctx, node, x, dim)
    if node.op == "aten.topk" and node.arg(3, "largest", True) and is_routing(ctx, x, dim):
        return best(ctx, node, x, dim)
    ctx.freeze(x.dims[dim], "its positions are mixed or ordered", node)
    metas = node.value if isinstance(node.value, tuple) else (node.value,)
    values = []
    for meta in metas:
        assert isinstance(meta, Meta)
        dims = list(x.dims)
        if meta.shape[dim] != dims[dim].size:
            dims[dim] = Axis(meta.shape[dim])
            ctx.freeze(dims[dim], "its positions are mixed or ordered", node)
        values.append(Value(tuple(dims), tuple(z and node.op in ("aten.cumsum", "aten.msort") for z in x.zero)))
    return tuple(values) if isinstance(node.value, tuple) else values[0]


@rule("aten.kthvalue", "aten.mode")
def order_statistic(ctx: Context, node: Node) -> tuple[Value, Value]:
    """Take one position of a dimension by its rank or its frequency: the value, 0 among zeros, and where it stood."""
    x = ctx.value(node.args[0])
    dim = node.arg(2 if "kth" in node.op else 1, "dim", -1) % len(x.dims)
    ctx.freeze(x.dims[dim], "its positions are compared", node)
    assert isinstance(node.value, tuple)
    assert node.value[0]
    new = [Axis(1)] if len(node.value[0].shape) == len(x.dims) else []
    dims, zero = (*x.dims[:dim], *new, *x.dims[dim + 1 :]), (*x.zero[:dim], *(True for _ in new), *x.zero[dim + 1 :])
    return Value(dims, zero), Value(dims, tuple(False for _ in zero))
