"""Operations that only rearrange: every one of them has a free oracle, itself run on a tensor of indices."""

from __future__ import annotations

from collections.abc import Sequence

from prunus.axes.algebra import Axis, concat, product
from prunus.axes.context import Context, Value, because, frozen
from prunus.axes.rules.pointwise import base_name
from prunus.axes.rules.registry import rule
from prunus.axes.trace import Node


@rule(
    "aten.view.default", "aten.reshape", "aten._unsafe_view", "aten.flatten.using_ints", "aten.unflatten.int",
    "aten.squeeze", "aten.squeeze_", "aten.unsqueeze", "aten.unsqueeze_", "aten.view_as", "aten.reshape_as",
    "aten.ravel",
)  # fmt: skip
def reshape(ctx: Context, node: Node) -> Value:
    """Couple the two factorisations of the same positions, run by run of dimensions with equal products."""
    x, shape = ctx.value(node.args[0]), node.shape
    if 0 in shape:
        return _empty(ctx, node, x)
    out: list[Axis] = []
    zero: list[bool] = []
    for left, right in _runs([d.size for d in x.dims], list(shape)):
        sources = [x.dims[i] for i in left]
        if len(left) == len(right) == 1:
            targets = sources
        else:
            targets = [Axis(shape[j]) for j in right]
            if any(t.size > 1 for t in targets):
                ctx.unify(product(sources or [Axis(1)]), product(targets), node)
        out.extend(targets)
        zero.extend([all(x.zero[i] for i in left)] * len(right))
    return Value(tuple(out), tuple(zero))


def _empty(ctx: Context, node: Node, x: Value) -> Value:
    """Without positions there is nothing to match, but dimensions of size 1 may come and go: no class tokens, say."""
    if [d.size for d in x.dims if d.size != 1] != [n for n in node.shape if n != 1]:
        ctx.freeze(x.dims, "it is empty", node)
        return frozen(node.shape, because("it is empty", node))
    passed = iter([pair for pair in zip(x.dims, x.zero, strict=True) if pair[0].size != 1])
    dims, zero = zip(*((Axis(1), False) if n == 1 else next(passed) for n in node.shape), strict=True)
    return Value(dims, zero)


def _runs(left: Sequence[int], right: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Cut two shapes of equal product into the shortest runs of equal product."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(left) or j < len(right):
        run: tuple[list[int], list[int]] = ([], [])
        a = b = 1
        if i < len(left) and (left[i] != 1 or j >= len(right) or right[j] == 1):
            run[0].append(i)
            a, i = left[i], i + 1
        if j < len(right) and (right[j] != 1 or not run[0] or a == 1):
            run[1].append(j)
            b, j = right[j], j + 1
        while a != b:
            if a < b:
                run[0].append(i)
                a, i = a * left[i], i + 1
            else:
                run[1].append(j)
                b, j = b * right[j], j + 1
        runs.append(run)
    return runs


@rule("aten.permute")
def permute(ctx: Context, node: Node) -> Value:
    """Reorder dimensions."""
    return _reorder(ctx.value(node.args[0]), node.args[1])


@rule("aten.transpose.int", "aten.swapaxes", "aten.swapdims", "aten.transpose_")
def transpose(ctx: Context, node: Node) -> Value:
    """Swap two dimensions."""
    x = ctx.value(node.args[0])
    order = list(range(len(x.dims)))
    i, j = node.args[1], node.args[2]
    order[i], order[j] = order[j], order[i]
    return _reorder(x, order)


@rule("aten.t", "aten.numpy_T", "aten.mT", "aten.mH", "aten.matrix_H", "aten.adjoint", "aten.movedim.int")
def transpose_last(ctx: Context, node: Node) -> Value:
    """Reverse a matrix (or a batch of matrices), or move one dimension."""
    x = ctx.value(node.args[0])
    order = list(range(len(x.dims)))
    if "movedim" in node.op:
        source, target = (a % len(order) for a in node.args[1:3])
        order.insert(target, order.pop(source))
    elif "numpy_T" in node.op:
        order.reverse()
    else:
        order[-2:] = order[-2:][::-1]
    return _reorder(x, order)


def _reorder(x: Value, order: Sequence[int]) -> Value:
    return Value(tuple(x.dims[i] for i in order), tuple(x.zero[i] for i in order))


@rule("aten.expand", "aten.broadcast_to")
def expand(ctx: Context, node: Node) -> Value:
    """Repeat along dimensions of size 1: the copies are a new axis, free to follow what they meet."""
    x, shape = ctx.value(node.args[0]), node.shape
    lead = len(shape) - len(x.dims)
    dims = [Axis(n) for n in shape]
    zero = [False] * len(shape)
    for i, axis in enumerate(x.dims):
        if axis.size == shape[lead + i]:
            dims[lead + i], zero[lead + i] = axis, x.zero[i]
    return Value(tuple(dims), tuple(zero))


@rule("aten.repeat", "aten.tile")
def repeat(ctx: Context, node: Node) -> Value:
    """Tile: copies vary slowest; `tile` may leave out leading counts of 1."""
    x = ctx.value(node.args[0])
    counts = [*(1 for _ in x.dims[len(node.args[1]) :]), *node.args[1]]
    lead = len(counts) - len(x.dims)
    dims, zero = [Axis(n) for n in counts[:lead]], [False] * lead
    for axis, flag, count in zip(x.dims, x.zero, counts[lead:], strict=True):
        dims.append(axis if count == 1 else product([Axis(count), axis]))
        zero.append(flag and count == 1)
    return Value(tuple(dims), tuple(zero))


@rule("aten.cat", "aten.concat", "aten.concatenate")
def cat(ctx: Context, node: Node) -> Value:
    """Put positions one after the other along one dimension, couple the others."""
    values = [v for ref in node.args[0] if (v := ctx.value(ref)) and v.dims and tuple(d.size for d in v.dims) != (0,)]
    return _joined(ctx, node, values, node.arg(1, "dim", 0) % len(values[0].dims))


@rule("aten.hstack", "aten.vstack", "aten.row_stack", "aten.dstack", "aten.column_stack")
def named_cat(ctx: Context, node: Node) -> Value:
    """Put rows, columns or layers one after the other; of tensors with too few dimensions, new ones of size 1."""
    name = base_name(node.target)
    values = [_lifted(ctx.value(ref), name) for ref in node.args[0]]
    dim = {"vstack": 0, "row_stack": 0, "dstack": 2}.get(name, min(1, len(values[0].dims) - 1))
    return _joined(ctx, node, values, dim)


def _lifted(x: Value, name: str) -> Value:
    """Give a tensor the dimensions that a stack by name asks for: (N,) is (1, N), (N, 1) or (1, N, 1)."""
    rank = len(x.dims)
    before = (
        1 if (rank == 0 and name != "column_stack") or (rank < 2 and name in ("vstack", "row_stack", "dstack")) else 0
    )
    after = {"vstack": 2, "row_stack": 2, "dstack": 3, "column_stack": 2, "hstack": 1}[name] - rank - before
    return Value(
        (*(Axis(1) for _ in range(before)), *x.dims, *(Axis(1) for _ in range(after))),
        (*(True for _ in range(before)), *x.zero, *(True for _ in range(after))),
    )


def _joined(ctx: Context, node: Node, values: Sequence[Value], dim: int) -> Value:
    dims: list[Axis] = []
    for i, axis in enumerate(values[0].dims):
        if i == dim:
            dims.append(concat([v.dims[i] for v in values]))
            continue
        for other in values[1:]:
            ctx.unify(axis, other.dims[i], node)
        dims.append(axis)
    return Value(tuple(dims), tuple(all(v.zero[i] for v in values) for i in range(len(dims))))


@rule("aten.stack")
def stack(ctx: Context, node: Node) -> Value:
    """Couple all operands; the new dimension keeps its positions."""
    values = [ctx.value(ref) for ref in node.args[0]]
    first = values[0]
    for other in values[1:]:
        for a, b in zip(first.dims, other.dims, strict=True):
            ctx.unify(a, b, node)
    dim = node.arg(1, "dim", 0) % (len(first.dims) + 1)
    new = frozen([len(values)], because("it counts stacked tensors", node)).dims[0]
    zero = [all(v.zero[i] for v in values) for i in range(len(first.dims))]
    return Value((*first.dims[:dim], new, *first.dims[dim:]), (*zero[:dim], True, *zero[dim:]))


def cut(ctx: Context, node: Node, x: Value, dim: int, sizes: Sequence[int]) -> list[Axis]:
    """Cut a dimension into consecutive pieces of the given sizes."""
    pieces = [Axis(n) for n in sizes]
    ctx.unify(x.dims[dim], concat(pieces), node)
    ctx.pieces[node.index] = pieces
    return pieces


def split_dim(node: Node, rank: int) -> int:
    """Return the dimension that a split by argument or by name cuts."""
    named = {"vsplit": 0, "hsplit": min(1, rank - 1), "dsplit": 2}
    return int(named.get(base_name(node.target), node.arg(2, "dim", 0))) % rank


def _with_dim(x: Value, dim: int, axis: Axis) -> Value:
    return Value((*x.dims[:dim], axis, *x.dims[dim + 1 :]), x.zero)


@rule(
    "aten.split",
    "aten.chunk",
    "aten.split_with_sizes",
    "aten.tensor_split",
    "aten.unsafe_chunk",
    "aten.unsafe_split",
    "aten.hsplit",
    "aten.vsplit",
    "aten.dsplit",
)
def split(ctx: Context, node: Node) -> tuple[Value, ...]:
    """Cut a dimension; equal pieces that one number makes (chunk, split by a size) must stay equal."""
    x = ctx.value(node.args[0])
    dim = split_dim(node, len(x.dims))
    assert isinstance(node.value, tuple)
    pieces = cut(ctx, node, x, dim, [meta.shape[dim] for meta in node.value if meta])
    one_size = len({piece.size for piece in pieces}) == 1 < len(pieces)
    if isinstance(node.args[1], int) and one_size and not x.dims[dim].is_frozen():
        ctx.equal.append(tuple(pieces))
    return tuple(_with_dim(x, dim, piece) for piece in pieces)


@rule("aten.slice.Tensor", "aten.narrow.default")
def slice_(ctx: Context, node: Node) -> Value:
    """Cut out one run of positions; a stride keeps them all."""
    x = ctx.value(node.args[0])
    dim = node.arg(1, "dim", 0) % len(x.dims)
    size = x.dims[dim].size
    if "narrow" in node.op:
        start, stop, step = node.args[2], node.args[2] + node.args[3], 1
    else:
        start, stop, step = slice(node.arg(2, "start"), node.arg(3, "end"), node.arg(4, "step", 1)).indices(size)
    if (start, step) == (0, 1) and stop >= size:
        return x
    if step != 1:
        ctx.freeze(x.dims[dim], "a strided slice picks positions by number", node)
    if x.dims[dim].is_frozen():
        return _with_dim(x, dim, frozen([node.shape[dim]], because("it is a slice of a fixed axis", node)).dims[0])
    stop = max(start, stop)
    return _with_dim(x, dim, cut(ctx, node, x, dim, [start, stop - start, size - stop])[1])


@rule("aten.unbind.int", "aten.select.int")
def pick(ctx: Context, node: Node) -> Value | tuple[Value, ...]:
    """Take positions by number: the dimension keeps them all."""
    x = ctx.value(node.args[0])
    dim = node.arg(1, "dim", 0) % len(x.dims)
    ctx.freeze(x.dims[dim], "positions are taken by number", node)
    rest = Value((*x.dims[:dim], *x.dims[dim + 1 :]), (*x.zero[:dim], *x.zero[dim + 1 :]))
    return (rest,) * len(node.value) if isinstance(node.value, tuple) else rest


@rule("aten.glu")
def glu(ctx: Context, node: Node) -> Value:
    """First half times the sigmoid of the second: position i of both halves goes together."""
    x = ctx.value(node.args[0])
    dim = node.arg(1, "dim", -1) % len(x.dims)
    half = Axis(node.shape[dim])
    ctx.unify(x.dims[dim], Axis(x.dims[dim].size, "sum", [half, half]), node)
    return _with_dim(x, dim, half)


@rule("aten.pad", "aten.constant_pad_nd")
def pad(ctx: Context, node: Node) -> Value:
    """Add positions at the ends; a free axis keeps its own between the new, fixed ones."""
    x, widths = ctx.value(node.args[0]), node.args[1]
    constant = node.arg(2, "mode", "constant") == "constant" if "constant" not in node.op else True
    fill = node.arg(2 if "constant" in node.op else 3, "value", None) or 0
    dims, zero = list(x.dims), list(x.zero)
    for k in range(len(widths) // 2):
        dim, before, after = len(dims) - 1 - k, widths[2 * k], widths[2 * k + 1]
        if (before, after) == (0, 0):
            continue
        if not constant or min(before, after) < 0:
            ctx.freeze(x.dims[dim], "it is padded with its own positions", node)
        reason = because("it is padding", node)
        if x.dims[dim].is_frozen():
            dims[dim] = frozen([node.shape[dim]], reason).dims[0]
        else:
            ends = frozen([before, after], reason).dims
            dims[dim] = concat([ends[0], x.dims[dim], ends[1]])
    return Value(tuple(dims), tuple(z and fill == 0 for z in zero))


@rule("aten.pixel_shuffle", "aten.pixel_unshuffle")
def pixel_shuffle(ctx: Context, node: Node) -> Value:
    """(..., C*r*r, H, W) <-> (..., C, H*r, W*r): the r*r sub-positions of a channel go together."""
    x = ctx.value(node.args[0])
    factor = frozen([node.args[1] ** 2], because("it is a pixel's sub-position", node)).dims[0]
    ctx.freeze(x.dims[-2:], "it is a spatial extent", node)
    space = frozen(node.shape[-2:], because("it is a spatial extent", node))
    if "unshuffle" in node.op:
        channel = product([x.dims[-3], factor])
    else:
        channel = Axis(node.shape[-3])
        ctx.unify(x.dims[-3], product([channel, factor]), node)
    return Value((*x.dims[:-3], channel, *space.dims), (*x.zero[:-2], *space.zero))


@rule("aten.channel_shuffle")
def channel_shuffle(ctx: Context, node: Node) -> Value:
    """(N, G*c, ...) -> (N, c*G, ...)."""
    x, groups = ctx.value(node.args[0]), node.args[1]
    group, rest = Axis(groups), Axis(x.dims[1].size // groups)
    ctx.unify(x.dims[1], product([group, rest]), node)
    ctx.number(node, 1, "groups", group)
    return _with_dim(x, 1, product([rest, group]))


@rule("aten.roll", "aten.flip")
def roll(ctx: Context, node: Node) -> Value:
    """Move positions by number: the dimensions named keep them all."""
    x = ctx.value(node.args[0])
    dims = node.arg(2, "dims", []) if "roll" in node.op else node.args[1]
    ctx.freeze([x.dims[d] for d in dims] or x.dims, "positions are moved by number", node)
    return x
