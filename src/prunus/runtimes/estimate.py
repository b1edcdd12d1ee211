"""Latency of a structure by a few numbers: milliseconds of its parts at a grid of counts, and lines between them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice, product
from typing import Any

from prunus.axes import Graph
from prunus.costs import batch_of
from prunus.runtimes.device import Device
from prunus.runtimes.segments import Sizes
from prunus.runtimes.table import LatencyTable, about, latency_table

POINTS = 5
"""Counts of each axis that are timed."""

Names = tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """What some operations take, by the units left in the groups that they read and write.

    axes: names of groups; of those of one axis only the sum counts. counts: axis -> units left in all of them,
    ascending. ms: at every combination of the counts, the last axis running fastest.
    """

    axes: tuple[Names, ...]
    counts: tuple[tuple[int, ...], ...]
    ms: tuple[float, ...]

    @cached_property
    def groups(self) -> frozenset[str]:
        """The groups whose sizes change it."""
        return frozenset(chain.from_iterable(self.axes))

    def at(self, sizes: Sizes) -> float:
        """Return the milliseconds, linear along each axis between the counts that were timed, and flat beyond them."""
        values = self.ms
        for names, counts in zip(reversed(self.axes), reversed(self.counts), strict=True):
            low, part = _place(counts, sum(sizes[name] for name in names))
            high = min(low + 1, len(counts) - 1)
            rows = range(0, len(values), len(counts))
            values = tuple((1 - part) * values[row + low] + part * values[row + high] for row in rows)
        return values[0]


@dataclass(frozen=True)
class Estimate:
    """What structures of one model take on a device, to be computed anywhere, such as on a page.

    batch: examples in one forward. parts: the first one, without axes, is there whatever is pruned.
    checked: one structure's latency by this estimate and as it was measured, both as shares of the dense model's, or
    None where nothing can be measured.
    """

    device: str
    batch: int
    parts: tuple[Part, ...]
    checked: tuple[float, float] | None = None

    def at(self, sizes: Sizes, only: Collection[str] | None = None) -> float:
        """Return the milliseconds with so many units left, given for all groups.

        only: names of groups; what none of them changes is left out.
        """
        return sum(part.at(sizes) for part in self.parts if only is None or part.groups & set(only))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Estimate:
        """Read plain data, as `dataclasses.asdict` makes it, or JSON of it."""
        parts = tuple(
            Part(tuple(map(tuple, part["axes"])), tuple(map(tuple, part["counts"])), tuple(part["ms"]))
            for part in data["parts"]
        )
        checked = data["checked"] and (data["checked"][0], data["checked"][1])
        return cls(data["device"], data["batch"], parts, checked)


def estimate(
    graph: Graph, on: Device, *, most: float = 0.9, progress: Callable[[int, int], None] | None = None
) -> Estimate:
    """Time the parts of a model at a grid of counts, and one whole structure to see how good their sum is.

    most: the largest share of a group that may go. A part is timed at `POINTS` counts of what it reads and of what it
    makes, where many groups make up one of them all losing alike. What was timed before on this machine is known.
    progress: called with (timed, of how many).
    Raises InputError as the device does, NameNotFound where a given table lacks a layer.
    """
    table = latency_table(graph, on)
    grids = [[_points(graph, axis, most) for axis in axes] for axes in table.parts]
    wanted = [(number, dict(ChainMap(*corner))) for number, grid in enumerate(grids) for corner in product(*grid)]
    ms = iter(table.part_ms(wanted, progress))
    sums: dict[tuple[Names, ...], tuple[Grid, list[float]]] = {(): ([], [table.rest_ms])}
    for grid in grids:
        values = list(islice(ms, math.prod(map(len, grid))))
        axes = tuple(tuple(sizes[0]) for sizes in grid)
        before = sums[axes][1] if axes in sums else [0.0] * len(values)
        sums[axes] = grid, [a + b for a, b in zip(before, values, strict=True)]
    parts = tuple(
        Part(axes, tuple(tuple(sum(sizes.values()) for sizes in axis) for axis in grid), tuple(values))
        for axes, (grid, values) in sums.items()
    )
    found = Estimate(str(on), batch_of(tuple(graph.trace.args), dict(graph.trace.kwargs)), parts)
    if not isinstance(table, LatencyTable):
        return found
    sizes = {group.name: about(group, 1 - most / 2) for group in graph.groups}
    dense = found.at({group.name: group.size for group in graph.groups})
    return replace(found, checked=(found.at(sizes) / dense, table.measure(sizes).measured))


Grid = list[list[dict[str, int]]]
"""Axis -> the sizes of its groups at each of its points, ascending."""


def _points(graph: Graph, names: Names, most: float) -> list[dict[str, int]]:
    """Return counts from the fewest that may be left to the whole, those between at the kernels' steps."""
    shares = [1 - most * i / (POINTS - 1) for i in reversed(range(1, POINTS - 1))]
    fewest = {name: max(graph[name].minimum, math.ceil(graph[name].size * (1 - most) - 1e-9)) for name in names}
    points = [fewest, *({name: about(graph[name], share) for name in names} for share in (*shares, 1.0))]
    return [sizes for i, sizes in enumerate(points) if i == 0 or sum(sizes.values()) > sum(points[i - 1].values())]


def _place(known: Sequence[int], count: int) -> tuple[int, float]:
    """Return the index of the point before a count, and how far it lies towards the next one."""
    if len(known) == 1:
        return 0, 0.0
    low = min(max(bisect_right(known, count) - 1, 0), len(known) - 2)
    return low, min(1.0, max(0.0, (count - known[low]) / (known[low + 1] - known[low])))
