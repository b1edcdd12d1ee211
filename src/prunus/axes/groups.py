"""Prunable groups: what is removed together, and what it costs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from torch import Tensor

from prunus.axes.algebra import Axis
from prunus.axes.context import Context, Role
from prunus.axes.positions import unit_positions
from prunus.axes.rules.routing import minima

KINDS = ("expert", "head", "head dim", "hidden")
"""What operations call an axis, the most telling first: a table of position biases per head is an embedding too."""


@dataclass(frozen=True)
class Member:
    """One dimension of one parameter or buffer that a group runs through.

    param: state-dict name. dim: the dimension. role: `out` where the operation that reads it produces the group's
    positions along `dim`, `in` where it consumes them, `scale` for one number per position (norms, biases),
    `spared` where it goes with the unit but must not be zeroed: rows that are divided by their own norm.
    index: int64 (group size, k): the k positions along `dim` that belong to each unit.
    """

    param: str
    dim: int
    role: Role
    is_parameter: bool
    leaf: Axis = field(repr=False, compare=False)
    axis: Axis = field(repr=False, compare=False)

    @cached_property
    def index(self) -> Tensor:
        """Positions along `dim` that belong to each unit."""
        return unit_positions(self.axis, self.leaf)


@dataclass(frozen=True)
class Group:
    """A leaf axis that some parameter carries and nothing freezes: channels, features, heads.

    name: after the first module that produces it; `conv1#2` for the second one of the same module.
    size: number of units. kind: `channel` (convolutions), `head`, `head dim`, `expert` (what a router chooses among),
        `hidden` (what norms and embeddings span), `ffn` (between two maps of the hidden axis), else `feature`.
    members: every dimension of every parameter and buffer that loses positions with it.
    exactness: `exact`; `compensated` where weights or a scale make up for units that are gone; `inexact` where a
        statistic then runs over fewer units than the masked model's.
    minimum: units that have to stay: as many as a router chooses.
    """

    name: str
    size: int
    kind: str
    members: tuple[Member, ...]
    leaf: Axis = field(repr=False, compare=False)
    exactness: Literal["exact", "compensated", "inexact"] = "exact"
    minimum: int = 1


@dataclass(frozen=True)
class Frozen:
    """A parameter's dimension that keeps all its positions, and why."""

    param: str
    dim: int
    size: int
    reason: str


def find_groups(ctx: Context) -> tuple[Group, ...]:
    """Collect the groups of a propagated trace in the order of the model's parameters."""
    carried: dict[Axis, list[Member]] = {}
    experts = {leaf for axis, kind in ctx.kinds if kind == "expert" for leaf in axis.leaves()}  # made by their router
    for name, value in ctx.state.items():
        if name in ctx.trace.ties:
            continue
        for dim, axis in enumerate(value.dims):
            for leaf in dict.fromkeys(axis.leaves()):
                if leaf.reason is None and leaf.size > 1:
                    made = len(value.dims) > 1 and dim == 0 and leaf not in experts
                    role = ctx.roles.get((name, dim)) or ("out" if made else "scale")
                    member = Member(name, dim, role, name in ctx.trace.parameters, leaf, axis.root())
                    carried.setdefault(leaf, []).append(member)
    found = {leaf: ms for leaf, ms in carried.items() if any(m.is_parameter for m in ms) and _separable(leaf, ms)}
    names = _names(found)
    kinds, exactness, least = _kinds(ctx, found), _exactness(ctx), minima(ctx)
    return tuple(
        Group(names[leaf], leaf.size, kinds[leaf], tuple(ms), leaf, exactness.get(leaf, "exact"), least.get(leaf, 1))
        for leaf, ms in found.items()
    )


def _kinds(ctx: Context, found: Mapping[Axis, list[Member]]) -> dict[Axis, str]:
    """Say what each leaf is: what an operation called it, or what makes it and what reads it."""
    named: dict[Axis, str] = {}
    for axis, kind in sorted(ctx.kinds, key=lambda pair: KINDS.index(pair[1])):
        for leaf in axis.leaves():
            named.setdefault(leaf, kind)
    kernels = [n.args[1] for n in ctx.trace.nodes if n.kind == "op" and "conv" in n.op]
    made_of = {ref for kernel in kernels for ref in (kernel, *ctx.computed.get(kernel.index, ()))}
    convolved = {ctx.trace.nodes[ref.index].target for ref in made_of}
    kinds = {}
    for leaf, members in found.items():
        if any(m.param in convolved and m.role == "out" for m in members):
            kinds[leaf] = "channel"
        elif leaf in named:
            kinds[leaf] = named[leaf]
        else:
            kinds[leaf] = "ffn" if any(_writes(ctx, m, named, "hidden") for m in members) else "feature"
    return kinds


def _writes(ctx: Context, member: Member, named: Mapping[Axis, str], kind: str) -> bool:
    """Tell whether the map that reads a member makes an axis of this kind."""
    if member.role != "in":
        return False
    others = (axis for dim, axis in enumerate(ctx.state[member.param].dims) if dim != member.dim)
    return any(named.get(leaf) == kind for axis in others for leaf in axis.leaves())


def _exactness(ctx: Context) -> dict[Axis, Literal["exact", "compensated", "inexact"]]:
    out: dict[Axis, Literal["exact", "compensated", "inexact"]] = {}
    for axis in (*(norm.axis for norm in ctx.rescaled.values()), *ctx.pinned.values()):
        out.update(dict.fromkeys(axis.leaves(), "compensated"))
    for axes in ctx.approximate.values():
        for axis in axes:
            out.update(dict.fromkeys(axis.leaves(), "inexact"))
    return out


def _separable(leaf: Axis, members: list[Member]) -> bool:
    """Freeze a leaf that owns a position twice (a square of itself); such positions cannot be removed one by one."""
    try:
        for member in members:
            _ = member.index
    except ValueError:
        leaf.freeze("one position of a parameter belongs to two of its units")
        return False
    return True


def _names(found: Mapping[Axis, list[Member]]) -> dict[Axis, str]:
    names: dict[Axis, str] = {}
    taken: dict[str, int] = {}
    for leaf, members in found.items():
        lead = next((m for m in members if m.role == "out" and m.is_parameter), members[0])
        param = re.sub(r"parametrizations\.(\w+)\.original\d?$", r"\1", lead.param)
        module, _, attribute = param.rpartition(".")
        base = module if attribute in ("weight", "weight_g", "weight_v") and module else param
        taken[base] = taken.get(base, 0) + 1
        names[leaf] = base if taken[base] == 1 else f"{base}#{taken[base]}"
    return names


def find_frozen(ctx: Context) -> tuple[Frozen, ...]:
    """List the dimensions of parameters of two or more dimensions that keep all their positions, kernels aside."""
    out = []
    for name, value in ctx.state.items():
        if name not in ctx.trace.parameters or name in ctx.trace.ties or len(value.dims) < 2:
            continue
        for dim, axis in enumerate(value.dims):
            if axis.is_frozen() and axis.size > 1 and ctx.roles.get((name, dim)) != "scale":
                out.append(Frozen(name, dim, axis.size, first_reason(axis)))
    return tuple(out)


def first_reason(axis: Axis) -> str:
    """Return why the largest frozen leaf of an axis is frozen: the width of a gate says more than the four gates."""
    frozen = [leaf for leaf in axis.leaves() if leaf.reason is not None]
    return max(frozen, key=lambda leaf: leaf.size).reason or "" if frozen else "nothing freezes it"


def equal_sets(pairs: Sequence[tuple[Axis, Axis]], groups: tuple[Group, ...]) -> tuple[tuple[str, ...], ...]:
    """Return the names of groups that must keep equally many units: the pairs' transitive closure."""
    by_leaf = {group.leaf: group.name for group in groups}
    sets: dict[str, set[str]] = {}
    for a, b in pairs:
        if a in by_leaf and b in by_leaf:
            merged = {by_leaf[a], by_leaf[b]} | sets.get(by_leaf[a], set()) | sets.get(by_leaf[b], set())
            sets.update(dict.fromkeys(merged, merged))
    ordered = [tuple(g.name for g in groups if g.name in sets[name]) for name in by_leaf.values() if name in sets]
    return tuple(dict.fromkeys(ordered))
