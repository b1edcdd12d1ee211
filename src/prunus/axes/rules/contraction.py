"""Sums of products: linear maps, convolutions, matrix products, attention, embeddings."""

from __future__ import annotations

from collections.abc import Sequence

from prunus.axes.algebra import Axis, flatten, product
from prunus.axes.context import Context, Value, because, frozen
from prunus.axes.rules.registry import rule
from prunus.axes.rules.routing import note_stack
from prunus.axes.trace import Node, Ref


@rule("aten.linear")
def linear(ctx: Context, node: Node) -> Value:
    """x (..., I), weight (O, I), bias (O,) -> (..., O)."""
    x, w = ctx.value(node.args[0]), ctx.value(node.args[1])
    ctx.role(node.args[1], "out", "in")
    return _affine(ctx, node, x, w, out_dim=0, bias=node.arg(2, "bias"))


@rule("aten.addmm")
def addmm(ctx: Context, node: Node) -> Value:
    """bias (O,) or (N, O), x (N, I), weight (I, O) -> (N, O): transformers' Conv1D."""
    x, w = ctx.value(node.args[1]), ctx.value(node.args[2])
    ctx.role(node.args[2], "in", "out")
    return _affine(ctx, node, x, w, out_dim=1, bias=node.args[0])


def _affine(ctx: Context, node: Node, x: Value, w: Value, out_dim: int, bias: object) -> Value:
    in_dim = 1 - out_dim
    ctx.contract(x.dims[-1], x.zero[-1], w.dims[in_dim], w.zero[in_dim], node)
    out, zero = w.dims[out_dim], w.zero[out_dim]
    b = ctx.optional(bias)
    if b is not None:
        ctx.role(bias)
        ctx.unify(out, b.dims[-1], node)
        zero = zero and b.zero[-1]
    result = Value((*x.dims[:-1], out), (*(z and b is None for z in x.zero[:-1]), zero))
    ctx.macs.append((*result.dims, w.dims[in_dim]))
    return result


@rule("aten.conv1d", "aten.conv2d", "aten.conv3d")
def convolution(ctx: Context, node: Node) -> Value:
    """x (N, G*I, ...), weight (G*O, I, ...), bias (G*O,) -> (N, G*O, ...)."""
    w = ctx.value(node.args[1])
    ctx.role(node.args[1], "out", "in")
    groups = node.arg(6, "groups", 1)
    return _convolve(ctx, node, groups, w.dims[1], w.zero[1], w.dims[0], w.zero[0])


@rule("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d")
def transposed_convolution(ctx: Context, node: Node) -> Value:
    """x (N, G*I, ...), weight (G*I, O, ...), bias (G*O,) -> (N, G*O, ...)."""
    w = ctx.value(node.args[1])
    ctx.role(node.args[1], "in", "out")
    groups = node.arg(6, "groups", 1)
    if groups != 1:  # weight rows are G*I: take the factors apart, so that a group goes as a whole
        group, rows = Axis(groups), Axis(w.dims[0].size // groups)
        ctx.unify(w.dims[0], product([group, rows]), node)
        out = product([group, w.dims[1]])
        return _convolve(ctx, node, groups, rows, w.zero[0], out, w.zero[0] and w.zero[1], group)
    return _convolve(ctx, node, 1, w.dims[0], w.zero[0], w.dims[1], w.zero[1])


def _convolve(
    ctx: Context,
    node: Node,
    groups: int,
    inner: Axis,
    inner_zero: bool,
    out: Axis,
    out_zero: bool,
    group: Axis | None = None,
) -> Value:
    """Couple channels; `inner` is the contracted axis within one group, `out` all output channels."""
    x, w, b = ctx.value(node.args[0]), ctx.value(node.args[1]), ctx.optional(node.arg(2, "bias"))
    channel = len(x.dims) - len(w.dims) + 1  # 0 where the input has no batch
    if groups == 1:
        ctx.contract(x.dims[channel], x.zero[channel], inner, inner_zero, node)
    else:
        if group is None:
            group = Axis(groups)
            ctx.unify(out, product([group, Axis(out.size // groups)]), node)
        ctx.contract(x.dims[channel], x.zero[channel], product([group, inner]), inner_zero, node)
        ctx.number(node, 6, "groups", group)
    if b is not None:
        ctx.role(node.arg(2, "bias"))
        ctx.unify(out, b.dims[0], node)
        out_zero = out_zero and b.zero[0]
    ctx.freeze([*w.dims[2:], *x.dims[channel + 1 :]], "it is a spatial extent", node)
    space = frozen(node.shape[channel + 1 :], because("it is a spatial extent", node))
    batch = x.dims[:channel]
    ctx.macs.append((*batch, out, *_summed_positions(node, x, space), inner, *w.dims[2:]))
    return Value((*batch, out, *space.dims), (*(z and b is None for z in x.zero[:channel]), out_zero, *space.zero))


def _summed_positions(node: Node, x: Value, space: Value) -> tuple[Axis, ...]:
    """A convolution does one product per output position; a transposed one per input position."""
    return space.dims if "transpose" not in node.op else x.dims[-len(space.dims) :]


@rule("aten.matmul", "aten.bmm", "aten.mm", "aten.mv", "aten.dot")
def matmul(ctx: Context, node: Node) -> Value:
    """x (..., M, K) @ y (..., K, N); a vector operand has only K."""
    x, y = ctx.value(node.args[0]), ctx.value(node.args[1])
    if len(y.dims) == 2:
        ctx.role(node.args[1], "in", "out")
    if len(x.dims) == 2:
        ctx.role(node.args[0], "out", "in")
    k = -2 if len(y.dims) > 1 else -1
    ctx.contract(x.dims[-1], x.zero[-1], y.dims[k], y.zero[k], node)
    batch = batched(ctx, node, Value(x.dims[:-2], x.zero[:-2]), Value(y.dims[:-2], y.zero[:-2]))
    rows = (x.dims[-2:-1], x.zero[-2:-1])
    columns = (y.dims[-1:], y.zero[-1:]) if len(y.dims) > 1 else ((), ())
    for operand in node.args[:2]:
        note_stack(ctx, operand, range(len(ctx.value(operand).dims) - 2))
    _name_heads(ctx, node, batch.dims, x.dims[-1], y.dims[-1])
    result = Value((*batch.dims, *rows[0], *columns[0]), (*batch.zero, *rows[1], *columns[1]))
    ctx.macs.append((*result.dims, x.dims[-1]))
    return result


def _name_heads(ctx: Context, node: Node, batch: Sequence[Axis], summed: Axis, *others: Axis) -> None:
    """Call the axes of an attention that is spelled out by their names; heads may be folded into the batch."""
    if any(_is_weight(ctx, ref) for ref in node.refs()):
        return
    ctx.spelled[node.index] = summed
    heads = batch[1:] or [axis for axis in batch if len(flatten(axis, "product")) > 1]
    if heads:
        ctx.kinds.extend((axis, "head") for axis in heads)
        ctx.kinds.extend((axis, "head dim") for axis in (summed, *others))


def _is_weight(ctx: Context, arg: object) -> bool:
    return isinstance(arg, Ref) and ctx.trace.nodes[arg.index].kind in ("parameter", "buffer")


@rule("aten.baddbmm")
def baddbmm(ctx: Context, node: Node) -> Value:
    """bias (B, M, N) + x (B, M, K) @ y (B, K, N)."""
    bias, x, y = (ctx.value(a) for a in node.args[:3])
    for operand in node.args[1:3]:
        note_stack(ctx, operand, [0])
    ctx.contract(x.dims[2], x.zero[2], y.dims[1], y.zero[1], node)
    ctx.unify(x.dims[0], y.dims[0], node)
    _name_heads(ctx, node, x.dims[:1], x.dims[2], y.dims[2])
    dims = (x.dims[0], x.dims[1], y.dims[2])
    beta = node.kwargs.get("beta", 1)
    zero = (x.zero[0] or y.zero[0], x.zero[1], y.zero[2])
    if beta != 0:
        for i, axis in enumerate(reversed(bias.dims)):
            if axis.size == dims[-1 - i].size:
                ctx.unify(axis, dims[-1 - i], node)
        zero = (False, False, False)
    ctx.macs.append((*dims, x.dims[2]))
    return Value(dims, zero)


def batched(ctx: Context, node: Node, x: Value, y: Value) -> Value:
    """Broadcast two lists of batch dimensions; a product is zero where either factor is."""
    rank = max(len(x.dims), len(y.dims))
    dims: list[Axis] = []
    zero: list[bool] = []
    for i in range(-rank, 0):
        pair = [(v.dims[i], v.zero[i]) for v in (x, y) if len(v.dims) >= -i]
        size = max(axis.size for axis, _ in pair)
        wide = [(axis, z) for axis, z in pair if axis.size == size]
        if len(wide) == 2:
            ctx.unify(wide[0][0], wide[1][0], node)
        dims.append(wide[0][0])
        zero.append(any(z for _, z in wide))
    return Value(tuple(dims), tuple(zero))


@rule("aten.scaled_dot_product_attention")
def attention(ctx: Context, node: Node) -> Value:
    """q (..., L, E), k (..., S, E), v (..., S, V) -> (..., L, V); query heads may be kv heads * repeats."""
    q, k, v = (ctx.value(a) for a in node.args[:3])
    for i in range(len(q.dims) - 2):
        repeats = q.dims[i].size // max(1, k.dims[i].size)
        ctx.unify(q.dims[i], k.dims[i] if repeats == 1 else product([k.dims[i], Axis(repeats)]), node)
        ctx.unify(k.dims[i], v.dims[i], node)
    ctx.contract(q.dims[-1], q.zero[-1], k.dims[-1], k.zero[-1], node)
    ctx.unify(k.dims[-2], v.dims[-2], node)
    ctx.freeze(k.dims[-2], "a softmax runs over it", node)
    if node.kwargs.get("scale") is None:
        if ctx.inexact == "forbid":
            ctx.freeze(q.dims[-1], "the scale of attention is read from it", node)
        else:
            ctx.pinned[node.index] = q.dims[-1]
    else:
        ctx.spelled[node.index] = q.dims[-1]
    ctx.kinds.extend((axis, "head") for axis in k.dims[1:-2])
    ctx.kinds.extend((axis, "head dim") for axis in (q.dims[-1], v.dims[-1]))
    mask = ctx.optional(node.arg(3, "attn_mask"))
    scores = (*q.dims[:-1], k.dims[-2])
    for i, axis in enumerate(reversed(mask.dims if mask else ())):
        if axis.size == scores[-1 - i].size:
            ctx.unify(axis, scores[-1 - i], node)
    ctx.macs.extend([(*scores, q.dims[-1]), (*scores, v.dims[-1])])
    heads = tuple(z and a.size == b.size for z, a, b in zip(v.zero[:-2], q.dims[:-2], v.dims[:-2], strict=True))
    return Value((*q.dims[:-1], v.dims[-1]), (*heads, False, v.zero[-1]))


@rule("aten.embedding")
def embedding(ctx: Context, node: Node) -> Value:
    """weight (V, E), indices (...) -> (..., E)."""
    w, indices = ctx.value(node.args[0]), ctx.value(node.args[1])
    ctx.role(node.args[0], "in", "out")
    if indices.points is None:
        ctx.freeze(w.dims[0], "its rows are looked up by index", node)
    else:
        ctx.unify(w.dims[0], indices.points, node)
    ctx.kinds.append((w.dims[1], "hidden"))
    return Value((*indices.dims, w.dims[1]), (*(False for _ in indices.dims), w.zero[1]))


@rule("aten.einsum")
def einsum(ctx: Context, node: Node) -> Value:
    """Subscript by subscript; an ellipsis stands for as many dimensions as are left, aligned at the right."""
    values = [ctx.value(operand) for operand in node.args[1]]
    terms, right = _subscripts(node.args[0].replace(" ", ""), [len(v.dims) for v in values])
    uses: dict[str, list[tuple[Axis, bool]]] = {}
    for term, value in zip(terms, values, strict=True):
        for letter, axis, zero in zip(term, value.dims, value.zero, strict=True):
            uses.setdefault(letter, []).append((axis, zero))
    for letter, found in uses.items():
        size = max(axis.size for axis, _ in found)
        uses[letter] = found = [(axis, zero) for axis, zero in found if axis.size == size]
        for axis, _ in found[1:]:
            ctx.unify(found[0][0], axis, node)
        if letter not in right and not any(zero for _, zero in found):
            ctx.freeze(found[0][0], "a sum over it would lose terms that are not zero", node)
    for operand, term in zip(node.args[1], terms, strict=True):
        others = {c for other in terms if other is not term for c in other}
        made, read = set(term) & set(right) - others, set(term) & others - set(right)
        note_stack(ctx, operand, [i for i, c in enumerate(term) if made - {c} and read - {c}])
    shared = [c for c in terms[0] if all(c in term for term in terms)]
    if len(terms) == 2 and not set(shared) <= set(right):
        batch = [c for c in shared if c in right]
        inner = [uses[c][0][0] for c in sorted(uses, key=lambda c: c in right) if c not in batch]
        _name_heads(ctx, node, [uses[c][0][0] for c in batch], *inner)
    ctx.macs.append(tuple(found[0][0] for found in uses.values()))
    return Value(tuple(uses[c][0][0] for c in right), tuple(any(z for _, z in uses[c]) for c in right))


def _subscripts(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """Return one label per dimension of each operand and of the result; ellipsis dimensions are `-1`, `-2`, …"""
    left, arrow, right = equation.partition("->")
    terms: list[list[str]] = []
    widest: list[str] = []
    for term, rank in zip(left.split(","), ranks, strict=True):
        head, dots, tail = term.partition("...")
        hidden = [str(i - (rank - len(head) - len(tail))) for i in range(rank - len(head) - len(tail))] if dots else []
        widest = max(widest, hidden, key=len)
        terms.append([*head, *hidden, *tail])
    if not arrow:
        letters = [c for term in terms for c in term if c not in widest]
        return terms, [*widest, *sorted(c for c in set(letters) if letters.count(c) == 1)]
    head, dots, tail = right.partition("...")
    return terms, [*head, *(widest if dots else []), *tail]
