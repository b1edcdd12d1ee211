"""Norms by a mean over units: which weight and which epsilon can make up for units that are gone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prunus.axes.algebra import Axis
from prunus.axes.context import Context, Rescaled
from prunus.axes.planted import PlantedFloat
from prunus.axes.rules.pointwise import base_name
from prunus.axes.trace import Meta, Node, Ref

RESHAPES = ("view", "reshape", "_unsafe_view", "unsqueeze", "flatten", "unflatten")
CASTS = ("to", "_to_copy", "type_as", "contiguous", "clone", "float", "alias")
MOVES = ("transpose", "permute", "t", "mT", "squeeze")
PRODUCTS = ("linear", "matmul", "mm", "conv1d", "conv2d", "conv3d")


def of_operation(ctx: Context, node: Node, axis: Axis) -> Rescaled | None:
    """Read `aten.rms_norm`: x, shape, weight, eps."""
    weight, eps = node.arg(2, "weight"), node.arg(3, "eps")
    own = None if weight is None else _own_weight(ctx, weight)
    weights = _readers(ctx, node) if weight is None else () if own is None else (own,)
    if not weights:
        return None
    attribute = _planted(ctx, node)
    if eps is None:  # torch's default is that of the dtype
        assert isinstance(node.value, Meta)
        dtype = node.value.dtype if node.value.dtype is torch.float64 else torch.float32  # halves: in float32
        eps, attribute = torch.finfo(dtype).eps, f"{node.module}.eps".lstrip(".")
    return Rescaled(axis, weights, 0.0, 0.5, eps, node.index, 3, attribute)


def of_mean(ctx: Context, mean: Node, axis: Axis) -> Rescaled | None:
    """Follow a mean through `+ eps` and the root or division that it ends in to weights, or give up.

    A mean of squares ends in a root (RMSNorm), a mean of norms in a division (global response normalisation).
    """
    add = _only_user(ctx, mean, ("add",))
    user = add and _only_user(ctx, add, ("rsqrt", "sqrt", "pow", "div"))
    if add is None or user is None or mean.arg(1, "dim") is None:
        return None
    if base_name(user.target) == "div":
        power, scaled = 1.0, user if user.args[1] == Ref(add.index) else None
    else:
        power, scaled = 0.5, _scaled_by_root(ctx, user)
    eps = next((a for a in add.args if isinstance(a, float)), None)
    weight = _weight_behind(ctx, scaled) if scaled else None
    weights = (weight[0],) if weight else _readers(ctx, scaled) if scaled and power == 0.5 else ()
    if eps is None or not weights:
        return None
    offset = weight[1] if weight else 0.0
    return Rescaled(axis, weights, offset, power, eps, add.index, add.args.index(eps), _planted(ctx, add))


def _scaled_by_root(ctx: Context, root: Node) -> Node | None:
    """Return the product with, or the division by, a root, if x / root comes of it."""
    name, scaled = base_name(root.target), _only_user(ctx, root, ("mul", "div"))
    if scaled is None:
        return None
    if name == "sqrt":
        return scaled if base_name(scaled.target) == "div" and scaled.args[1] == Ref(root.index) else None
    return scaled if base_name(scaled.target) == "mul" and (name == "rsqrt" or root.args[1] == -0.5) else None


def _weight_behind(ctx: Context, node: Node) -> tuple[str, float] | None:
    """Pass reshapes and products with activations over until a product with a stored weight."""
    user = _only_user(ctx, node, ("mul", "addcmul", *RESHAPES))
    if user is None:
        return None
    if base_name(user.target) in RESHAPES:
        return _weight_behind(ctx, user)
    for arg in user.args if base_name(user.target) == "mul" else user.args[1:]:
        found = stored_weight(ctx, arg)
        if found is not None:
            return found
    return _weight_behind(ctx, user) if base_name(user.target) == "mul" else None


def _readers(ctx: Context, node: Node) -> tuple[str, ...]:
    """Return the weights of the products that read a norm without a weight; empty where anything else does."""
    found: list[str] = []
    for index in ctx.trace.users.get(node.index, ()):
        user = ctx.trace.nodes[index]
        name, first = base_name(user.target) if user.kind == "op" else "", user.args[0] == Ref(node.index)
        weight = sole_parameter(ctx, user.args[1 if first else 0]) if name in PRODUCTS else None
        more = _readers(ctx, user) if first and name in (*CASTS, *RESHAPES, *MOVES) else (weight,) if weight else ()
        if not more:
            return ()
        found.extend(more)
    return tuple(found)


def _only_user(ctx: Context, node: Node, names: Sequence[str]) -> Node | None:
    """Return the one operation that reads a result, casts passed over, if it has one of these names."""
    users = ctx.trace.users.get(node.index, ())
    if len(users) != 1:
        return None
    user = ctx.trace.nodes[users[0]]
    if user.kind != "op":
        return None
    if base_name(user.target) in CASTS:
        return _only_user(ctx, user, names)
    return user if base_name(user.target) in names else None


def stored_weight(ctx: Context, arg: object) -> tuple[str, float] | None:
    """Return the parameter that is multiplied with, and what is added to it first: Gemma keeps its weight less one."""
    node = ctx.trace.nodes[arg.index] if isinstance(arg, Ref) else None
    while node is not None and node.kind == "op" and base_name(node.target) in (*CASTS, *RESHAPES):
        node = ctx.trace.nodes[node.args[0].index]
    if node is None:
        return None
    if node.kind == "op" and base_name(node.target) == "add" and len(list(node.refs())) == 1:
        found = stored_weight(ctx, next(node.refs()))
        constant = next((a for a in node.args if isinstance(a, (int, float))), None)
        return None if found is None or found[1] or constant is None else (found[0], float(constant))
    weight = _own_weight(ctx, Ref(node.index))
    return None if weight is None else (weight, 0.0)


def _own_weight(ctx: Context, arg: object) -> str | None:
    """Return the name of a one-dimensional parameter that nothing else reads."""
    name = sole_parameter(ctx, arg)
    return name if name is not None and len(ctx.trace.state[name].shape) == 1 else None


def sole_parameter(ctx: Context, arg: object) -> str | None:
    """Return the name of a parameter that nothing else reads."""
    if not isinstance(arg, Ref):
        return None
    node = ctx.trace.nodes[arg.index]
    shared = node.target in ctx.trace.ties or node.target in ctx.trace.ties.values()
    if node.kind != "parameter" or shared or len(ctx.trace.users.get(node.index, ())) != 1:
        return None
    return str(node.target)


def _planted(ctx: Context, node: Node) -> str | None:
    """Return the attribute that an operation's one float argument came from."""
    if node.call is None:
        return None
    call = ctx.trace.calls[node.call]
    floats = [a for a in (*call.args, *call.kwargs.values()) if isinstance(a, PlantedFloat)]
    return floats[0].source.path if len(floats) == 1 else None
