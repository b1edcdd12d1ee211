"""Which numbers of the user's objects must change with which axes, so that the class itself runs thinner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import nn

from prunus.axes.algebra import Axis, concat, flatten, product
from prunus.axes.context import Context, Value
from prunus.axes.planted import Attribute, Call, Expression, Planted, Read, Term
from prunus.axes.positions import Kept, size_after
from prunus.axes.trace import Node

Claim = tuple[Expression, Axis]
"""A number, and the axis whose size it has to be."""

# Calls whose integers are the sizes of their result, and how many arguments come before them.
SIZES = {
    "view": 1, "reshape": 1, "_reshape": 1, "expand": 1, "broadcast_to": 1, "unflatten": 2, "zeros": 0, "ones": 0,
    "empty": 0, "full": 0, "new_zeros": 1, "new_ones": 1, "new_empty": 1, "new_full": 1,
}  # fmt: skip
NORMS = ("layer_norm", "rms_norm")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "n_experts")
COUNTS = {"histc": "bins", "one_hot": "num_classes"}
CUTS = ("split", "split_with_sizes", "tensor_split")


def claims(ctx: Context, model: nn.Module) -> list[Claim]:
    """Return every number that reached a size during capture, and those that rules and adapters name."""
    found: list[Claim] = []
    for (module, name), axis in ctx.attributes.items():
        found.append((Attribute(f"{module}.{name}".lstrip("."), axis.size), axis))
    found.extend(_packed_heads(ctx, model))
    for node in ctx.trace.nodes:
        if node.call is not None:
            pairs = _sizes_in(ctx, node, ctx.trace.calls[node.call])
            found.extend((number.source, axis) for number, axis in pairs if isinstance(number, Planted))
    return found


def claimed_of_sizes(ctx: Context, found: Sequence[Claim]) -> Iterator[tuple[Axis, Axis]]:
    """Yield (the axis whose size a number is, the axis that it sizes) for numbers that code computes from sizes.

    Where `keys.shape[-1] // self.heads` sizes keys and values, its axis is the width of a key's head. Only products
    and quotients that come out as factors say which axis; of sizes that never change there is nothing to say.
    """
    held = {source.path: axis for source, axis in found if isinstance(source, Attribute)}
    made = _made_by(ctx)

    def factors(source: Expression | Read | int) -> list[Axis] | None:
        if isinstance(source, Read):
            value = ctx.values[made[source.call].index] if source.call in made else None
            axis = value.dims[source.dim] if isinstance(value, Value) else None
            return None if axis is None or axis.is_frozen() else flatten(axis, "product")
        if isinstance(source, Attribute):
            return flatten(held[source.path], "product") if source.path in held else None
        if not isinstance(source, Term):
            return None
        left, right = factors(source.left), factors(source.right)
        if left is None or right is None:
            return None
        if source.operator == "mul":
            return left + right
        return _without(left, right) if source.operator == "floordiv" else None

    for source, axis in found:
        parts = factors(source) if isinstance(source, Term) and source.reads() else None
        if parts:
            yield product(parts), axis


def _without(left: list[Axis], right: list[Axis]) -> list[Axis] | None:
    """Divide a product by another; None unless all factors of that one are among its own."""
    rest = list(left)
    for factor in right:
        if factor.size > 1:
            if factor not in rest:
                return None
            rest.remove(factor)
    return rest


def _made_by(ctx: Context) -> dict[int, Node]:
    """Return the last operation that each call made: that of its result."""
    return {node.call: node for node in ctx.trace.nodes if node.call is not None}


def matches(ctx: Context) -> Iterator[Claim]:
    """Yield the numbers that code compared with a size and found equal, as in `assert x.shape[1] == self.channels`.

    They follow, but tie nothing: two numbers may also be equal by chance, and then the proof decides.
    """
    made = _made_by(ctx)
    for match in ctx.trace.matches:
        value = ctx.values[made[match.call].index] if match.call in made else None
        if isinstance(value, Value) and match.dim < len(value.dims):
            yield match.source, value.dims[match.dim]


def _packed_heads(ctx: Context, model: nn.Module) -> Iterator[Claim]:
    """`nn.MultiheadAttention` tells torch its head count within a function that planted integers do not enter."""
    for path, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            inputs = ctx.state[f"{path}.out_proj.weight".lstrip(".")].dims[1]
            heads = flatten(inputs, "product")[0]
            if heads.size == module.num_heads:
                yield Attribute(f"{path}.num_heads".lstrip("."), heads.size), heads


def _sizes_in(ctx: Context, node: Node, call: Call) -> Iterator[tuple[Any, Axis]]:
    """Match the integers of a call with the axes of the operation that came of it."""
    value, pieces = ctx.values[node.index], ctx.pieces.get(node.index)
    if call.name in SIZES and isinstance(value, Value):
        sizes = _flat([*call.args[SIZES[call.name] :], call.kwargs.get("size", ())])
        dims = value.dims
        if call.name == "unflatten":
            dim = call.args[1] % (len(dims) - len(sizes) + 1)
            dims = dims[dim : dim + len(sizes)]
        yield from zip(sizes, dims, strict=False)
    elif call.name in NORMS and isinstance(value, Value):
        shape = call.args[1] if len(call.args) > 1 else call.kwargs["normalized_shape"]
        yield from zip(shape, value.dims[len(value.dims) - len(shape) :], strict=False)
    elif pieces and call.name in CUTS:
        sizes = call.args[1] if len(call.args) > 1 else next(iter(call.kwargs.values()))
        yield from zip(sizes if isinstance(sizes, (tuple, list)) else [sizes], pieces, strict=False)
    elif pieces and call.name == "narrow":
        yield from zip(call.args[2:4], pieces, strict=False)
    elif pieces and call.name == "__getitem__":
        yield from _bounds(node, call.args[1], pieces)
    for position, axis in ctx.numbers.get(node.index, {}).items():
        if len(call.args) > position:
            yield call.args[position], axis
        elif call.name in COUNTS:
            yield call.kwargs.get(COUNTS[call.name]), axis


def expert_counts(ctx: Context, model: nn.Module, kept: Kept) -> dict[str, tuple[int, int]]:
    """Return the counts of experts that modules and the model's config keep beside the tensors, where they change.

    A count tells of every stack below its module: where these keep different numbers, none is theirs, and it stays.
    """
    experts = {leaf for axis, kind in ctx.kinds if kind == "expert" for leaf in axis.leaves()}
    stacks = {
        (name, axis)
        for name, value in ctx.state.items()
        for axis in value.dims
        if experts.intersection(axis.leaves()) and axis.size > 1
    }
    holders: list[tuple[str, str, dict[str, Any]]] = [(p, p, vars(module)) for p, module in model.named_modules()]
    config = getattr(model, "config", None)
    if hasattr(config, "__dict__"):
        holders.append(("", "config", vars(config)))
    found = {}
    for path, place, attributes in holders:
        below = {axis for name, axis in stacks if not path or name.startswith(f"{path}.")}
        sizes = {(axis.size, size_after(axis, kept)) for axis in below}
        for name in EXPERTS:
            if len(sizes) == 1 and attributes.get(name) == (now := next(iter(sizes)))[0] != now[1]:
                found[f"{place}.{name}".lstrip(".")] = now
    return found


def _flat(args: Iterable[Any]) -> list[Any]:
    return [x for arg in args for x in (arg if isinstance(arg, (tuple, list)) else [arg])]


def _bounds(node: Node, index: Any, pieces: Sequence[Axis]) -> Iterator[tuple[Any, Axis]]:
    """Match `x[..., a:b]` with the slice that it became; a bound counts the positions before it."""
    before, taken = pieces[:2]
    bounds = (before.size, before.size + taken.size)
    for entry in index if isinstance(index, tuple) else (index,):
        if isinstance(entry, slice) and (entry.start or 0, bounds[1] if entry.stop is None else entry.stop) == bounds:
            yield entry.start, before
            yield entry.stop, concat([before, taken])


def solve(found: Sequence[Claim], kept: Kept) -> dict[str, tuple[int, int]]:
    """Return what each attribute holds now and must hold then, where it changes.

    An attribute that arrives as it is says so itself; one that arrives only within a product or a sum is solved for.
    Where two claims contradict each other the first counts: the proof decides whether the class still runs.
    """
    before: dict[str, int] = {}
    after: dict[str, int] = {}
    for source, axis in found:
        if isinstance(source, Attribute):
            before.setdefault(source.path, int(source.value))
            after.setdefault(source.path, size_after(axis, kept))
    for source, axis in found:
        attributes = source.attributes()
        unknown = attributes.keys() - after.keys()
        if isinstance(source, Term) and len(unknown) == 1:
            value = source.invert(size_after(axis, kept), after)
            if value is not None:
                (path,) = unknown
                before[path], after[path] = attributes[path], value
    return {path: (before[path], n) for path, n in after.items() if n != before[path]}
