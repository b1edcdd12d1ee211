"""A graph in words: groups with their kinds, costs and exactness, what must stay equal, what is frozen and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prunus.axes.algebra import Axis
from prunus.axes.context import Context
from prunus.axes.groups import Group

if TYPE_CHECKING:
    from prunus.axes.graph import Graph


def units_of(group: Group) -> str:
    """Return what the units of a group are called: `channels`, `hidden units`."""
    return f"{group.kind} units" if group.kind in ("hidden", "ffn") else f"{group.kind}s"


def exactness_of(ctx: Context, group: Group) -> str:
    """Say whether removing units is exact, or what makes up for them, or what then runs over fewer of them."""
    if group.exactness == "exact":
        return "exact: no router can choose what is removed" if group.kind == "expert" else "exact"
    rescaled = [norm for norm in ctx.rescaled.values() if _runs_over(group, [norm.axis])]
    words = ["RMSNorm is rescaled"] if any(norm.power == 0.5 for norm in rescaled) else []
    words += ["response normalisation is rescaled"] if any(norm.power == 1 for norm in rescaled) else []
    words += ["attention keeps its scale"] if _runs_over(group, list(ctx.pinned.values())) else []
    counting = [ctx.trace.nodes[i] for i, axes in ctx.approximate.items() if _runs_over(group, axes)]
    places = [f"{node.op} at {node.location}" if node.location else node.op for node in counting]
    words += [f"a statistic runs over fewer units ({_first(places, 1)})"] if places else []
    return f"{group.exactness}: {' and '.join(words)}"


def _runs_over(group: Group, axes: Sequence[Axis]) -> bool:
    return any(leaf is group.leaf for axis in axes for leaf in axis.leaves())


def _first(names: Sequence[str], shown: int) -> str:
    """Return the first of some names, and how many more there are: a residual stream has dozens of makers."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def facts_of(graph: Graph, group: Group) -> str:
    """Say how exact removing a unit is, how many tensors lose it, and what it costs."""
    cost, members = graph.unit_cost(group.name), len(group.members)
    return (
        f"{exactness_of(graph.context, group)}; {members} member{'s' * (members != 1)}; "
        f"one costs {cost.params:,} parameters, {cost.macs:,} MACs"
    )


def limits(graph: Graph) -> list[str]:
    """Say what must stay equal, what is frozen and why, and what has no rule; a line each."""
    lines = [f"{', '.join(names)} must keep equally many units" for names in graph.equal]
    lines += [f"{f.param} dim {f.dim} ({f.size}) is frozen: {f.reason}" for f in graph.frozen]
    return lines + [f"no rule for {op} at {', '.join(sorted(set(at)))}" for op, at in graph.unknown.items()]


def describe(graph: Graph) -> str:
    """Return a line per group, then what limits a plan."""
    size = graph.size()
    lines = [f"{len(graph.groups)} groups, {size.params:,} parameters, {size.macs:,} MACs on the example inputs"]
    if graph.trace.concrete:
        lines.append("  values decide which operations run: this is what the example ran, the rest stays whole")
    for group in graph.groups:
        makers = [m.param for m in group.members if m.role == "out" and m.is_parameter]
        made = _first(makers or [group.members[0].param], 3)
        lines.append(f"  {group.name}: {group.size} {units_of(group)}, {facts_of(graph, group)}; made by {made}")
    return "\n".join([*lines, *(f"  {line}" for line in limits(graph))])
