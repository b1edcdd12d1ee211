"""Spectra, windows, complex numbers, matrix functions: what is transformed keeps its positions, the rest passes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prunus.axes.algebra import Axis, concat, product
from prunus.axes.context import Context, Value, because, frozen, frozen_result
from prunus.axes.rules.pointwise import base_name, broadcast
from prunus.axes.rules.registry import Result, rule
from prunus.axes.trace import Node

TRANSFORMED = "a transform mixes its positions"
SPACE = "it is a spatial extent"
ONE_DIM = [f"aten.fft_{name}" for name in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")]
MORE_DIMS = [f"aten.fft_{name}{n}" for name in ("fft", "ifft", "rfft", "irfft") for n in ("2", "n")]


def _kept_whole(ctx: Context, node: Node, x: Value, dims: Iterable[int], why: str) -> Value:
    """Freeze dimensions of x and give them the result's sizes; the others pass with their zeros."""
    own, out = list(x.dims), list(x.dims)
    for dim in {d % len(own) for d in dims}:
        ctx.freeze(own[dim], why, node)
        out[dim] = frozen([node.shape[dim]], because(why, node)).dims[0]
    return Value(tuple(out), x.zero)


@rule(*ONE_DIM, *MORE_DIMS)
def fourier(ctx: Context, node: Node) -> Value:
    """Transform one, two or all dimensions; the spectrum of zeros is 0."""
    x = ctx.value(node.args[0])
    last = node.op.endswith("2") or f"aten.{base_name(node.target)}" in ONE_DIM
    dim = node.arg(2, "dim", ([-2, -1] if node.op.endswith("2") else -1) if last else None)
    if dim is None:
        sizes = node.arg(1, "s")
        dim = range(len(x.dims)) if sizes is None else range(-len(sizes), 0)
    return _kept_whole(ctx, node, x, [dim] if isinstance(dim, int) else dim, TRANSFORMED)


@rule("aten.fft_fftshift", "aten.fft_ifftshift", "aten.rot90")
def shift(ctx: Context, node: Node) -> Value:
    """Move positions by number."""
    x = ctx.value(node.args[0])
    dims = node.arg(2, "dims", [0, 1]) if "rot90" in node.op else node.arg(1, "dim")
    dims = range(len(x.dims)) if dims is None else [dims] if isinstance(dims, int) else dims
    return _kept_whole(ctx, node, x, dims, "positions are moved by number")


@rule("aten.stft", "aten.istft")
def short_time_fourier(ctx: Context, node: Node) -> Value:
    """(B, L) <-> (B, frequencies, frames); complex or with real and imaginary part last."""
    x = ctx.value(node.args[0])
    for ref in list(node.refs())[1:]:
        ctx.freeze(ctx.value(ref).dims, TRANSFORMED, node)
    batch = x.dims[: 1 if len(x.dims) > (2 if "istft" in node.op else 1) else 0]
    ctx.freeze(x.dims[len(batch) :], TRANSFORMED, node)
    rest = frozen(node.shape[len(batch) :], because(TRANSFORMED, node))
    return Value((*batch, *rest.dims), (*x.zero[: len(batch)], *rest.zero))


@rule("aten.view_as_real")
def parts(ctx: Context, node: Node) -> Value:
    """Real and imaginary part as a new last dimension."""
    x = ctx.value(node.args[0])
    pair = frozen([2], because("it is real and imaginary part", node))
    return Value((*x.dims, *pair.dims), (*x.zero, *pair.zero))


@rule("aten.view_as_complex")
def from_parts(ctx: Context, node: Node) -> Value:
    """Drop the last dimension, which holds real and imaginary part."""
    x = ctx.value(node.args[0])
    ctx.freeze(x.dims[-1], "it is real and imaginary part", node)
    return Value(x.dims[:-1], x.zero[:-1])


@rule("aten.complex", "aten.polar")
def compose(ctx: Context, node: Node) -> Value:
    """Two tensors, one complex one: zero where both parts, or the modulus, are."""
    inputs = [ctx.value(ref) for ref in node.args[:2]]
    decisive = inputs[:1] if "polar" in node.op else inputs
    carriers = broadcast(ctx, node, inputs)
    dims = tuple(group[0][0].dims[group[0][1]] for group in carriers)
    zero = tuple(all(any(v is w and v.zero[i] for v, i in group) for w in decisive) for group in carriers)
    return Value(dims, zero)


@rule("aten.im2col")
def unfold_image(ctx: Context, node: Node) -> Value:
    """(N, C, H, W) -> (N, C*k*k, blocks): the k*k positions of a channel go together."""
    x, kernel = ctx.value(node.args[0]), node.args[1]
    ctx.freeze(x.dims[-2:], SPACE, node)
    window = frozen(kernel, because("it is a position in a window", node))
    blocks = frozen(node.shape[-1:], because(SPACE, node))
    return Value((*x.dims[:-3], product([x.dims[-3], *window.dims]), *blocks.dims), (*x.zero[:-2], True))


@rule("aten.col2im")
def fold_image(ctx: Context, node: Node) -> Value:
    """(N, C*k*k, blocks) -> (N, C, H, W): overlapping windows add up."""
    x, kernel = ctx.value(node.args[0]), node.args[2]
    channel = Axis(node.shape[-3])
    window = frozen(kernel, because("it is a position in a window", node))
    ctx.unify(x.dims[-2], product([channel, *window.dims]), node)
    ctx.freeze(x.dims[-1], SPACE, node)
    space = frozen(node.shape[-2:], because(SPACE, node))
    return Value((*x.dims[:-2], channel, *space.dims), (*x.zero[:-1], *space.zero))


@rule("aten.unfold")
def windows(ctx: Context, node: Node) -> Value:
    """Cut one dimension into windows, whose positions come last."""
    x = ctx.value(node.args[0])
    why = "windows are cut out by number"
    window = frozen(node.shape[-1:], because(why, node))
    cut = _kept_whole(ctx, node, x, [node.args[1]], why)
    return Value((*cut.dims, *window.dims), (*cut.zero, *window.zero))


@rule("aten.grid_sampler", "aten.grid_sampler_2d", "aten.grid_sampler_3d")
def sample(ctx: Context, node: Node) -> Value:
    """x (N, C, space), grid (N, other space, 2 or 3) -> (N, C, other space): interpolates zeros to 0."""
    x, grid = ctx.value(node.args[0]), ctx.value(node.args[1])
    ctx.unify(x.dims[0], grid.dims[0], node)
    ctx.freeze((*x.dims[2:], *grid.dims[1:]), SPACE, node)
    space = frozen(node.shape[2:], because(SPACE, node))
    return Value((*x.dims[:2], *space.dims), (False, x.zero[1], *space.zero))


@rule("aten.max_unpool2d", "aten.max_unpool3d")
def unpool(ctx: Context, node: Node) -> Value:
    """(N, C, space) and where its maxima stood -> (N, C, larger space), zero elsewhere."""
    x, where = ctx.value(node.args[0]), ctx.value(node.args[1])
    space = len(x.dims) - int(base_name(node.target)[-2])
    for ours, theirs in zip(x.dims, where.dims, strict=True):
        ctx.unify(ours, theirs, node)
    return _kept_whole(ctx, node, x, range(space, len(x.dims)), SPACE)


MATRIX_FUNCTIONS = (
    "inv", "inv_ex", "pinv", "det", "slogdet", "svd", "svdvals", "eig", "eigh", "eigvals", "eigvalsh", "qr", "lu",
    "lu_factor", "cholesky", "cholesky_ex", "solve", "solve_triangular", "lstsq", "matrix_power", "matrix_exp",
    "householder_product", "matrix_norm", "cond", "matrix_rank",
)  # fmt: skip


@rule(
    *(f"aten.linalg_{name}" for name in MATRIX_FUNCTIONS),
    "aten.inverse", "aten.det", "aten.logdet", "aten.slogdet", "aten.svd", "aten.qr", "aten.cholesky",
    "aten.matrix_exp", "aten.matrix_power", "aten.pinverse", "aten.linalg_cross", "aten.cross", "aten.renorm",
    "aten.as_strided", "aten.affine_grid_generator", "aten.trace", "aten.diag",
)  # fmt: skip
def mixed(ctx: Context, node: Node) -> Result:
    """Mix or place positions by number, all of them."""
    for ref in node.refs():
        ctx.freeze(ctx.value(ref).dims, "its positions are mixed by number", node)
    return frozen_result(node, "its positions are mixed by number")


@rule("aten.rand", "aten.randn", "aten.randint", "aten.randperm", "aten.normal")
def drawn(ctx: Context, node: Node) -> Value:
    """Random numbers: with fewer drawn, the others would be others."""
    for ref in node.refs():
        ctx.freeze(ctx.value(ref).dims, "random numbers are drawn for it", node)
    return frozen(node.shape, because("its values are drawn at random", node))


@rule("aten.movedim.intlist", "aten.moveaxis.intlist")
def move(ctx: Context, node: Node) -> Value:
    """Move dimensions; those that are not named keep their order."""
    x, rank = ctx.value(node.args[0]), len(node.shape)
    goal = {target % rank: source % rank for source, target in zip(node.args[1], node.args[2], strict=True)}
    rest = iter(i for i in range(rank) if i not in goal.values())
    order = [goal[i] if i in goal else next(rest) for i in range(rank)]
    return Value(tuple(x.dims[i] for i in order), tuple(x.zero[i] for i in order))


@rule("aten.meshgrid")
def meshgrid(ctx: Context, node: Node) -> tuple[Value, ...]:
    """Vectors spread over the dimensions of all of them; each is constant along the others."""
    inputs = [ctx.value(ref) for ref in node.args[0]]
    axes = [v.dims[0] if v.dims else Axis(1) for v in inputs]
    order = list(range(len(axes)))
    if node.arg(1, "indexing", "ij") == "xy":
        order[:2] = order[:2][::-1]
    return tuple(
        Value(tuple(axes[i] for i in order), tuple(i == j and bool(v.zero) and v.zero[0] for i in order))
        for j, v in enumerate(inputs)
    )


@rule("aten.block_diag")
def block_diagonal(ctx: Context, node: Node) -> Value:
    """Matrices one behind the other along both dimensions, zero elsewhere."""
    blocks = [ctx.value(ref) for ref in node.args[0]]
    assert all(len(block.dims) == 2 for block in blocks)
    return Value(
        tuple(concat([block.dims[i] for block in blocks]) for i in range(2)),
        tuple(all(block.zero[i] for block in blocks) for i in range(2)),
    )


@rule("aten.broadcast_tensors")
def spread(ctx: Context, node: Node) -> tuple[Value, ...]:
    """Each tensor repeated to the shape of all."""
    inputs = [ctx.value(ref) for ref in node.args[0]]
    assert isinstance(node.value, tuple)
    assert node.value[0]
    shape = node.value[0].shape
    return tuple(_spread(value, shape) for value in inputs)


def _spread(x: Value, shape: Sequence[int]) -> Value:
    lead = len(shape) - len(x.dims)
    pairs = [(Axis(n), False) for n in shape]
    for i, axis in enumerate(x.dims):
        if axis.size == shape[lead + i]:
            pairs[lead + i] = (axis, x.zero[i])
    return Value(tuple(axis for axis, _ in pairs), tuple(zero for _, zero in pairs))
