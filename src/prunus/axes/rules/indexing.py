"""Reading and writing by number: the dimension that is counted keeps its positions, the others pass."""

from __future__ import annotations

from collections.abc import Sequence

from prunus.axes.algebra import Axis, product
from prunus.axes.context import Context, Value, because, frozen, frozen_result
from prunus.axes.rules.factories import is_all_zero
from prunus.axes.rules.pointwise import base_name
from prunus.axes.rules.registry import Result, rule
from prunus.axes.rules.routing import TAKEN, take_chosen
from prunus.axes.trace import Meta, Node, Ref

WRITTEN = "positions are written by index"


def _both(*names: str) -> tuple[str, ...]:
    """Return operations and their in-place forms."""
    return tuple(f"aten.{name}{tail}" for name in names for tail in ("", "_"))


@rule("aten.index.Tensor")
def index(ctx: Context, node: Node) -> Value:
    """x[:, i, j]: the dimensions that index tensors stand for become those of the index tensors.

    They stand where the first index stood if all of them were neighbours, in front otherwise.
    """
    x, indices = ctx.value(node.args[0]), node.args[1]
    used = [i for i, ref in enumerate(indices) if isinstance(ref, Ref)]
    for i in used:
        take_chosen(ctx, node, node.args[0], i, ctx.value(indices[i]))
    rest = [i for i in range(len(x.dims)) if i not in used]
    new = _broadcast(ctx, node, [ctx.value(indices[i]) for i in used])
    place = _place(used)
    dims = [*(x.dims[i] for i in rest[:place]), *new, *(x.dims[i] for i in rest[place:])]
    zero = [*(x.zero[i] for i in rest[:place]), *(False for _ in new), *(x.zero[i] for i in rest[place:])]
    return Value(tuple(dims), tuple(zero))


def _place(used: Sequence[int]) -> int:
    """Return before how many of the dimensions that are not indexed the new ones stand."""
    return used[0] if list(used) == list(range(used[0], used[-1] + 1)) else 0


def _broadcast(ctx: Context, node: Node, values: Sequence[Value]) -> list[Axis]:
    """Couple the dimensions of index tensors, aligned at the right."""
    dims: list[Axis] = []
    for i in range(-max(len(value.dims) for value in values), 0):
        own = [value.dims[i] for value in values if len(value.dims) >= -i]
        wide = [axis for axis in own if axis.size != 1] or own
        for axis in wide[1:]:
            ctx.unify(wide[0], axis, node)
        dims.append(wide[0])
    return dims


@rule("aten.index_select")
def index_select(ctx: Context, node: Node) -> Value:
    """Take positions of one dimension: it becomes the dimension of the index tensor."""
    x, where = ctx.value(node.args[0]), ctx.value(node.args[2])
    dim = node.args[1] % len(x.dims)
    take_chosen(ctx, node, node.args[0], dim, where)
    axis = where.dims[0] if where.dims else Axis(1)
    return _replaced(x, dim, axis, False)


def _replaced(x: Value, dim: int, axis: Axis, zero: bool) -> Value:
    return Value((*x.dims[:dim], axis, *x.dims[dim + 1 :]), (*x.zero[:dim], zero, *x.zero[dim + 1 :]))


@rule("aten.gather", "aten.take_along_dim")
def gather(ctx: Context, node: Node) -> Value:
    """out[i, j] = x[index[i, j], j]: j passes where index reaches all of x."""
    names = ("indices", 1, 2) if "along" in node.op else ("index", 2, 1)
    x, where, dim = ctx.value(node.args[0]), ctx.value(node.arg(names[1], names[0])), node.arg(names[2], "dim")
    if dim is None:
        ctx.freeze((*x.dims, *([] if where.points is None else [where.points])), TAKEN, node)
        return frozen(node.shape, because(TAKEN, node))
    dim %= len(x.dims)
    take_chosen(ctx, node, node.args[0], dim, where)
    dims: list[Axis] = []
    zero: list[bool] = []
    for i, (own, other) in enumerate(zip(x.dims, where.dims, strict=True)):
        passes = i != dim and own.size == node.shape[i]
        if i != dim and not (passes or own.size == 1):
            ctx.freeze(own, TAKEN, node)
        if passes and other.size == own.size:
            ctx.unify(own, other, node)
        dims.append(own if passes else other)
        zero.append(passes and x.zero[i])
    return Value(tuple(dims), tuple(zero))


@rule("aten.take")
def take(ctx: Context, node: Node) -> Value:
    """Take positions of the flattened tensor."""
    ctx.freeze(ctx.value(node.args[0]).dims, TAKEN, node)
    where = ctx.value(node.args[1])
    return Value(where.dims, (False,) * len(where.dims))


@rule(*_both("index_put", "_index_put_impl"), "aten._unsafe_index_put")
def index_put(ctx: Context, node: Node) -> Value:
    """x[:, i, j] = values, or += values: zeros stay where both are zero."""
    x, indices, values = ctx.value(node.args[0]), node.args[1], ctx.value(node.args[2])
    nothing = is_all_zero(ctx, node.args[2])
    used = [i for i, ref in enumerate(indices) if isinstance(ref, Ref)]
    flags = [ctx.trace.nodes[indices[i].index] for i in used]
    is_mask = [isinstance(flag.value, Meta) and str(flag.value.dtype) == "torch.bool" for flag in flags]
    if len(used) == 1 and is_mask[0] and all(axis.size == 1 for axis in values.dims):
        mask = ctx.value(indices[used[0]])  # one value wherever the mask is set: element by element
        for ours, theirs in zip(x.dims[used[0] :], mask.dims, strict=False):
            ctx.unify(ours, theirs, node)
        return x.with_zero(nothing)
    if any(is_mask):  # each mask stands for as many dimensions as it has
        ctx.freeze((*x.dims, *values.dims), WRITTEN, node)
        return x
    ctx.freeze([x.dims[i] for i in used], WRITTEN, node)
    rest = [i for i in range(len(x.dims)) if i not in used]
    num_new = max(len(ctx.value(indices[i]).dims) for i in used)
    place = _place(used)
    slots: list[int | None] = [*rest[:place], *[None] * num_new, *rest[place:]]
    zero = [nothing and z for z in x.zero]
    for slot, axis, flag in zip(reversed(slots), reversed(values.dims), reversed(values.zero), strict=False):
        if slot is None:
            ctx.freeze(axis, WRITTEN, node)
        elif axis.size == x.dims[slot].size:
            ctx.unify(x.dims[slot], axis, node)
            zero[slot] = x.zero[slot] and (flag or nothing)
    return Value(x.dims, tuple(zero))


@rule(*_both("index_add", "index_copy", "index_fill", "index_reduce", "scatter", "scatter_add", "scatter_reduce"))
def scatter(ctx: Context, node: Node) -> Value:
    """Write `source` (a tensor of x's rank, or a number) to positions of `dim`: sums, products, extremes of 0 are 0."""
    x, dim, where = ctx.value(node.args[0]), node.args[1], ctx.value(node.args[2])
    filler = node.arg(3, "value", node.kwargs.get("src", node.kwargs.get("source")))
    source = ctx.optional(filler)
    dim %= len(x.dims)
    ctx.freeze([v.dims[dim] for v in (where, source) if v and len(v.dims) == len(x.dims)], WRITTEN, node)
    chosen = where.points if "index_" not in node.op else None
    if chosen is None:
        ctx.freeze(x.dims[dim], WRITTEN, node)
    else:
        ctx.unify(x.dims[dim], chosen, node)
    ctx.freeze(where.dims if len(where.dims) != len(x.dims) or "index_" in node.op else (), WRITTEN, node)
    nothing = is_all_zero(ctx, filler)
    zero = [z and nothing for z in x.zero]
    for i, own in enumerate(x.dims):
        sizes: list[tuple[Axis, bool]] = []
        if "index_" not in node.op:
            sizes.append((where.dims[i], True))
        if source is not None and source.dims:
            sizes.append((source.dims[i], source.zero[i]))
        if i == dim:
            zero[i] = x.zero[i] and (nothing or chosen is not None)  # nothing is written where positions go
            continue
        for other, _ in sizes:
            if other.size == own.size:
                ctx.unify(own, other, node)
            else:  # only the first positions are written
                ctx.freeze((own, other), WRITTEN, node)
        if source is not None and source.dims:
            zero[i] = x.zero[i] and (nothing or source.zero[i])
    return Value(x.dims, tuple(zero))


@rule("aten.select_scatter", "aten.slice_scatter")
def scatter_slice(ctx: Context, node: Node) -> Value:
    """x with one position, or a run of positions, of `dim` replaced by those of `source`."""
    x, source = ctx.value(node.args[0]), ctx.value(node.args[1])
    dim = node.arg(2, "dim", 0) % len(x.dims)
    ctx.freeze(x.dims[dim], WRITTEN, node)
    theirs = list(zip(source.dims, source.zero, strict=True))
    if len(source.dims) == len(x.dims):
        ctx.freeze(theirs.pop(dim)[0], WRITTEN, node)
    zero = list(x.zero)
    for i, (axis, flag) in zip((i for i in range(len(x.dims)) if i != dim), theirs, strict=True):
        ctx.unify(x.dims[i], axis, node)
        zero[i] = zero[i] and flag
    return Value(x.dims, tuple(zero))


@rule(*_both("masked_scatter"))
def masked_scatter(ctx: Context, node: Node) -> Value:
    """Put the elements of `source` one after the other where the mask is set.

    Where the mask says the same along the last dimension, whole rows of `source` go to whole rows of x: its last
    dimension passes. All others keep their positions, since the elements are counted.
    """
    x, source = ctx.value(node.args[0]), ctx.value(node.args[2])
    if _same_along_last(ctx, node.args[1]) and source.dims[-1].size == x.dims[-1].size:
        ctx.freeze((*x.dims[:-1], *source.dims[:-1]), WRITTEN, node)
        ctx.unify(x.dims[-1], source.dims[-1], node)
        ctx.unify(x.dims[-1], ctx.value(node.args[1]).dims[-1], node)
        return Value(x.dims, (*x.zero[:-1], x.zero[-1] and source.zero[-1]))
    ctx.freeze((*x.dims, *source.dims, *ctx.value(node.args[1]).dims), WRITTEN, node)
    return x


def _same_along_last(ctx: Context, mask: Ref) -> bool:
    """Tell whether a tensor was spread along its last dimension from size 1."""
    node = ctx.trace.nodes[mask.index]
    while node.kind == "op" and base_name(node.target) in ("to", "_to_copy", "clone", "contiguous"):
        node = ctx.trace.nodes[node.args[0].index]
    if node.kind != "op" or base_name(node.target) not in ("expand", "expand_as", "broadcast_to"):
        return False
    return ctx.value(node.args[0]).dims[-1].size == 1


@rule("aten.one_hot")
def one_hot(ctx: Context, node: Node) -> Value:
    """One new last dimension, whose positions are what the numbers say."""
    x = ctx.value(node.args[0])
    if x.points is not None and x.points.size == node.shape[-1] and len(node.args) > 1:
        ctx.numbers.setdefault(node.index, {})[1] = x.points
        return Value((*x.dims, x.points), (*(False for _ in x.dims), True))
    ctx.freeze([] if x.points is None else x.points, "its positions are class numbers", node)
    classes = frozen(node.shape[-1:], because("its positions are class numbers", node))
    return Value((*x.dims, *classes.dims), (*(False for _ in x.dims), False))


@rule("aten.repeat_interleave.self_int")
def repeat_interleave(ctx: Context, node: Node) -> Value:
    """Each position `repeats` times in a row: copies vary fastest."""
    x, repeats, dim = ctx.value(node.args[0]), node.args[1], node.arg(2, "dim")
    copies = Axis(repeats)
    if len(node.args) > 1:
        ctx.number(node, 1, "repeats", copies)
    if dim is None:
        return Value((product([*x.dims, copies]),), (all(x.zero) and repeats == 1,))
    dim %= len(x.dims)
    return _replaced(x, dim, product([x.dims[dim], copies]), x.zero[dim] and repeats == 1)


@rule("aten.repeat_interleave.self_Tensor")
def repeat_by_counts(ctx: Context, node: Node) -> Value:
    """Each position as often as a tensor says."""
    x = ctx.value(node.args[0])
    ctx.freeze(ctx.value(node.args[1]).dims, TAKEN, node)
    dim = node.arg(2, "dim")
    if dim is None:
        ctx.freeze(x.dims, TAKEN, node)
        return frozen(node.shape, because(TAKEN, node))
    dim %= len(x.dims)
    ctx.freeze(x.dims[dim], TAKEN, node)
    return _replaced(x, dim, frozen([node.shape[dim]], because(TAKEN, node)).dims[0], True)


@rule("aten.bucketize", "aten.searchsorted")
def search(ctx: Context, node: Node) -> Value:
    """Each element's place among sorted boundaries, whose last dimension is the order; others are matched."""
    x, borders = (ctx.value(node.args[i]) for i in ((0, 1) if "bucketize" in node.op else (1, 0)))
    ctx.freeze(borders.dims[-1], "its positions are ordered", node)
    for own, other in zip(x.dims, borders.dims[:-1], strict=False):
        ctx.unify(own, other, node)
    return Value(x.dims, (False,) * len(x.dims))


@rule("aten.embedding_bag")
def embedding_bag(ctx: Context, node: Node) -> Result:
    """weight (V, E), indices, offsets, weights per sample -> (bags, E) and bookkeeping; any reduction of 0 is 0."""
    w = ctx.value(node.args[0])
    ctx.role(node.args[0], "in", "out")
    ctx.freeze(w.dims[0], "its rows are looked up by index", node)
    for ref in list(node.refs())[1:]:
        ctx.freeze(ctx.value(ref).dims, "it is looked up by index", node)
    assert isinstance(node.value, tuple)
    reason = because("it counts what was looked up", node)
    values = [None if meta is None else frozen(meta.shape, reason) for meta in node.value]
    assert values[0]
    values[0] = Value((values[0].dims[0], w.dims[1]), (False, w.zero[1]))
    return tuple(values)


@rule("aten.nonzero", "aten.nonzero_numpy", "aten.argwhere", "aten.where.default")
def places(ctx: Context, node: Node) -> Result:
    """The numbers of the positions that are not zero."""
    ctx.freeze(ctx.value(node.args[0]).dims, "its positions are numbered", node)
    return frozen_result(node, "its positions are numbered")
