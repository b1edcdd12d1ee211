"""What goes where in the picture of a graph: a row per layer in the order of execution, a lane per group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prunus.axes import Graph, Group
from prunus.report.svg import NUM_COLOURS


@dataclass(frozen=True)
class Dim:
    """A dimension of a weight: its size, the groups that run through it (None: a part that is kept whole), its note.

    note: number of the reason why it keeps its size, where it does; kernels and other plain dimensions have none.
    """

    size: int
    groups: tuple[int | None, ...]
    note: int | None


@dataclass(frozen=True)
class Row:
    """A layer: its name, the dimensions of its weight (none for norms and scales), what each group is to it.

    roles: group number -> `out`, `in`, `scale`, as many as there are. tensors: what the row stands for.
    """

    name: str
    dims: tuple[Dim, ...]
    roles: Mapping[int, frozenset[str]]
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Track:
    """A group: from which row to which, in which lane and colour."""

    group: Group
    first: int
    last: int
    lane: int
    colour: int


@dataclass(frozen=True)
class Picture:
    """Everything that is drawn; notes are the reasons why dimensions keep their size."""

    rows: tuple[Row, ...]
    tracks: tuple[Track, ...]
    notes: tuple[str, ...]


def arrange(graph: Graph) -> Picture:
    """Lay a graph out: layers as they run, groups in as few lanes as keep them apart."""
    notes: dict[str, int] = {}
    frozen = {(f.param, f.dim): notes.setdefault(f.reason, len(notes) + 1) for f in graph.frozen}
    every = (_row(graph, name, tensors, frozen) for name, tensors in _layers(graph))
    rows = tuple(row for row in every if row.dims or row.roles)
    spans = [[i for i, row in enumerate(rows) if number in row.roles] for number in range(len(graph.groups))]
    places = _lanes([(span[0], span[-1]) for span in spans])
    tracks = tuple(
        Track(group, span[0], span[-1], *place) for group, span, place in zip(graph.groups, spans, places, strict=True)
    )
    return Picture(rows, tracks, tuple(notes))


def _layers(graph: Graph) -> list[tuple[str, tuple[str, ...]]]:
    """Return (row name, its tensors) in the order in which operations first read them.

    Every weight of two or more dimensions has a row of its own; biases and statistics belong to their module's.
    """
    trace = graph.trace
    carried = {member.param for group in graph.groups for member in group.members}
    shown = [n for n in trace.state if n not in trace.ties and (n in trace.parameters or n in carried)]
    weights = {n for n in shown if n in trace.parameters and len(trace.state[n].shape) > 1}
    first = {_owner(n): n for n in reversed(shown) if n in weights}
    rows: dict[str, list[str]] = {}
    for name in shown:
        lead = name if name in weights else first.get(_owner(name), "")
        rows.setdefault(_row_name(lead) if lead else _owner(name) or name, []).append(name)
    order = _first_use(graph)
    late = len(trace.nodes)
    return sorted(((n, tuple(ts)) for n, ts in rows.items()), key=lambda row: min(order.get(t, late) for t in row[1]))


def _first_use(graph: Graph) -> dict[str, int]:
    """Return which operation first reads each parameter and buffer, under its first name."""
    trace, found = graph.trace, dict[str, int]()
    for node in trace.nodes:
        for ref in node.refs():
            source = trace.nodes[ref.index]
            if source.kind in ("parameter", "buffer"):
                found.setdefault(trace.ties.get(source.target, source.target), node.index)
    return found


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _row_name(weight: str) -> str:
    return weight.removesuffix(".weight")


def _row(graph: Graph, name: str, tensors: tuple[str, ...], frozen: Mapping[tuple[str, int], int]) -> Row:
    roles: dict[int, set[str]] = {}
    for number, group in enumerate(graph.groups):
        for member in group.members:
            if member.param in tensors:
                roles.setdefault(number, set()).add(member.role)
    weight = next((t for t in tensors if _row_name(t) == name and len(graph.trace.state[t].shape) > 1), None)
    dims = _dims(graph, weight, frozen) if weight in graph.trace.parameters else ()
    return Row(name, dims, {n: frozenset(found) for n, found in roles.items()}, tensors)


def _dims(graph: Graph, weight: str | None, frozen: Mapping[tuple[str, int], int]) -> tuple[Dim, ...]:
    assert weight is not None
    by_leaf = {group.leaf: number for number, group in enumerate(graph.groups)}
    found = []
    for dim, axis in enumerate(graph.context.state[weight].dims):
        leaves = dict.fromkeys(leaf for leaf in axis.leaves() if leaf.size > 1)
        numbers = dict.fromkeys(by_leaf.get(leaf) for leaf in leaves)
        found.append(Dim(axis.root().size, tuple(numbers), frozen.get((weight, dim))))
    return tuple(found)


def _lanes(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Give each span the first lane that is free from its first to its last row, and a colour that no neighbour has."""
    placed: dict[int, tuple[int, int]] = {}
    for turn, number in enumerate(sorted(range(len(spans)), key=lambda n: (spans[n][0], -spans[n][1]))):
        near = [placed[other] for other in placed if spans[other][1] >= spans[number][0]]
        lane = _first_free({lane for lane, _ in near})
        taken = {colour for _, colour in near}
        turns = [(turn + step) % NUM_COLOURS for step in range(NUM_COLOURS)]
        placed[number] = lane, next((colour for colour in turns if colour not in taken), turns[0])
    return [placed[number] for number in range(len(spans))]


def _first_free(taken: Iterable[int]) -> int:
    used = set(taken)
    return next(lane for lane in range(len(used) + 1) if lane not in used)
