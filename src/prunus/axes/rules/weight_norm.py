"""Weight norm: a direction and a length, both parameters, take the place of a weight."""

from __future__ import annotations

from prunus.axes.context import Context, Value
from prunus.axes.rules.pointwise import base_name
from prunus.axes.rules.registry import Result, rule
from prunus.axes.trace import Node, Ref

COUNTS = "a norm counts it"


@rule("aten._weight_norm", "aten._weight_norm_interface")
def weight_norm(ctx: Context, node: Node) -> Result:
    """v * g / ||v||, one norm per position of `dim`, or a single one at -1: a sum of squares, which loses zeros.

    A row of zeros would be divided by its norm, 0. So the masked model leaves rows of v as they are: those of g, at 0,
    make them 0. That holds while nothing but weight norms reads v.
    """
    v, g, dim = ctx.value(node.args[0]), ctx.value(node.args[1]), node.arg(2, "dim", 0)
    rank = len(v.dims)
    rows = None if dim == -1 else dim % rank
    ctx.freeze([d for i, (d, z) in enumerate(zip(v.dims, v.zero, strict=True)) if i != rows and not z], COUNTS, node)
    zero = list(v.zero)
    decisive = [node.args[0]] * rank
    if rows is not None:
        ctx.unify(v.dims[rows], g.dims[rows], node)
        name = _only_normed(ctx, node.args[0])
        if name is None:
            ctx.freeze(v.dims[rows], "it is divided by a norm, 0 for a row of zeros, and read elsewhere too", node)
        else:
            ctx.roles[name, rows] = "spared"
        zero[rows] = g.zero[rows]
        decisive[rows] = node.args[1]
    ctx.computed[node.index] = tuple(decisive)
    weight = Value(v.dims, tuple(zero))
    return (weight, Value(g.dims, (False,) * len(g.dims))) if isinstance(node.value, tuple) else weight


def _only_normed(ctx: Context, arg: Ref) -> str | None:
    """Return the name of a parameter, the first of tied ones, that only weight norms read."""
    source, ties = ctx.trace.nodes[arg.index], ctx.trace.ties
    if source.kind != "parameter":
        return None
    name = ties.get(source.target, source.target)
    own = [n.index for n in ctx.trace.nodes if n.kind == "parameter" and ties.get(n.target, n.target) == name]
    readers = [ctx.trace.nodes[user] for index in own for user in ctx.trace.users.get(index, ())]
    return name if all(n.kind == "op" and base_name(n.target).startswith("_weight_norm") for n in readers) else None
