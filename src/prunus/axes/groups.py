"""Prunable groups: what is removed together, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from prunus.axes.algebra import Axis
from prunus.axes.context import Context, Role
from prunus.axes.positions import unit_positions


@dataclass(frozen=True)
class Member:
    """One dimension of one parameter or buffer that a group runs through.

    param: state-dict name. dim: the dimension. role: `out` where the operation that reads it produces the group's
    positions along `dim`, `in` where it consumes them, `scale` for one number per position (norms, biases).
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
    size: number of units. kind: `channel` (convolutions) or `feature` (linear maps).
    members: every dimension of every parameter and buffer that loses positions with it.
    """

    name: str
    size: int
    kind: str
    members: tuple[Member, ...]
    leaf: Axis = field(repr=False, compare=False)


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
    for name, value in ctx.state.items():
        if name in ctx.trace.ties:
            continue
        for dim, axis in enumerate(value.dims):
            for leaf in dict.fromkeys(axis.leaves()):
                if leaf.reason is None and leaf.size > 1:
                    role = ctx.roles.get((name, dim)) or ("out" if len(value.dims) > 1 and dim == 0 else "scale")
                    member = Member(name, dim, role, name in ctx.trace.parameters, leaf, axis.root())
                    carried.setdefault(leaf, []).append(member)
    found = {leaf: ms for leaf, ms in carried.items() if any(m.is_parameter for m in ms) and _separable(leaf, ms)}
    names = _names(found)
    conv = {n.args[1].index for n in ctx.trace.nodes if n.kind == "op" and "conv" in n.op}
    convolved = {ctx.trace.nodes[i].target for i in conv}
    return tuple(
        Group(
            names[leaf],
            leaf.size,
            "channel" if any(m.param in convolved and m.role == "out" for m in members) else "feature",
            tuple(members),
            leaf,
        )
        for leaf, members in found.items()
    )


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
        module, _, attribute = lead.param.rpartition(".")
        base = module if attribute == "weight" and module else lead.param
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


def equal_sets(ctx: Context, groups: tuple[Group, ...]) -> tuple[tuple[str, ...], ...]:
    """Return the names of groups that must lose equally many units, because one number cuts their positions."""
    by_leaf = {group.leaf: group.name for group in groups}
    sets = []
    for axes in ctx.equal:
        leaves = [list(dict.fromkeys(axis.leaves())) for axis in axes]
        if all(len(found) == 1 and found[0] in by_leaf for found in leaves):
            names = tuple(dict.fromkeys(by_leaf[found[0]] for found in leaves))
            if len(names) > 1:
                sets.append(names)
    return tuple(dict.fromkeys(sets))


def split_compound_equals(ctx: Context) -> Iterator[Axis]:
    """Yield the leaves of chunk pieces that are terms, whose equality no single count can express."""
    for axes in ctx.equal:
        leaves = [list(dict.fromkeys(axis.leaves())) for axis in axes]
        if any(len(found) != 1 for found in leaves) and len({tuple(f) for f in leaves}) > 1:
            for found in leaves:
                yield from found


def freeze_one_sizes(ctx: Context) -> None:
    """Freeze what shares one number with an axis that is frozen, until nothing changes."""
    changed = True
    while changed:
        changed = False
        for axes in ctx.one_size:
            stiff = [axis for axis in axes if axis.is_frozen()]
            if 0 < len(stiff) < len(axes):
                for axis in axes:
                    axis.freeze(f"one number sizes it and an axis that is frozen: {first_reason(stiff[0])}")
                changed = True
