"""Latency of a structure, looked up: the sum over its segments, scaled to what the whole model was measured to take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn

from prunus.axes import Graph, Group, copied
from prunus.costs import Latency, batch_of
from prunus.plans.graph_model import thinned_graph
from prunus.plans.surgery import thin_
from prunus.runtimes.device import Device
from prunus.runtimes.elsewhere import Elsewhere
from prunus.runtimes.given import GivenTable
from prunus.runtimes.lookup import Lookup, Progress
from prunus.runtimes.segments import Built, Segment, Sizes, segments_of
from prunus.runtimes.steps import step_for

ROUNDS, SECONDS, LEAST_SECONDS = 400, 4.0, 1.0
"""Of whole models: so many rounds, but for no longer and no shorter than that."""


@dataclass(frozen=True)
class Check:
    """A structure whose latency was looked up and measured, both as shares of the dense model's.

    error: the standard error of the measured one.
    """

    predicted: float
    measured: float
    error: float


@dataclass(eq=False)
class LatencyTable:
    """What structures of one model take on a device.

    Each segment is timed alone, at the very counts that are asked for, once for all models on this machine: one channel
    more or less can double its time, so nothing is interpolated. The sum misses what lies between the segments, so two
    whole models, dense and about half, say by which factor and offset it becomes milliseconds.
    checks: whole models that were measured besides: the table's error bar.
    """

    graph: Graph
    device: Device
    checks: list[Check] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lookup = Lookup(self.device.parts)
        self._dense_call = self.device.prepare(self.graph.model, self._args, self._kwargs)

    @property
    def dense_ms(self) -> float:
        """Median of the whole dense model."""
        return self._scale[2]

    def predict(self, sizes: Sizes, dropped: Sequence[str] = ()) -> float:
        """Return the milliseconds of one forward on the example inputs with so many units left, blocks left out."""
        factor, offset, _ = self._scale
        return factor * self._sum(sizes, dropped) + offset

    def measure(self, sizes: Sizes, dropped: Sequence[str] = ()) -> Check:
        """Build the structure, time it against the dense model, and note how far off the table was."""
        latency = self._against_dense(sizes, dropped)
        ratio = latency.ratio_to_first
        predicted = self.predict(sizes, dropped) / self.dense_ms
        self.checks.append(Check(predicted, 1 / ratio, latency.ratio_error / ratio**2))
        return self.checks[-1]

    @property
    def parts(self) -> tuple[tuple[tuple[str, ...], ...], ...]:
        """The axes of each segment: groups that add up to one count."""
        return tuple(segment.axes for segment in self._segments(()))

    @property
    def rest_ms(self) -> float:
        """What is there besides the segments."""
        return self._scale[1]

    def part_ms(self, wanted: Sequence[tuple[int, Sizes]], progress: Progress | None = None) -> list[float]:
        """Return the milliseconds of segments, given as (its place in `parts`, units left in its groups)."""
        segments = self._segments(())
        built = [self._at(segments[place], sizes) for place, sizes in wanted]
        known = self._lookup.all(built, progress)
        return [self._scale[0] * known[each.signature] for each in built]

    def refit(self, structures: Sequence[Sizes]) -> None:
        """Measure whole structures, and let what the sum explains of a saving be what these say.

        The sum is off by much the same for structures alike, such as those near one budget.
        """
        dense = self.dense_ms
        checks = [self.measure(sizes) for sizes in structures]
        explained = sum((1 - check.predicted) ** 2 for check in checks)
        saved = sum((1 - check.predicted) * (1 - check.measured) for check in checks)
        if explained and saved > 0:
            factor, whole = self._scale[0] * saved / explained, self._sum({})
            self._scale = factor, dense - factor * whole, dense

    @property
    def error(self) -> float | None:
        """The mean of |predicted / measured - 1| over the checks, None without any."""
        found = [abs(check.predicted / check.measured - 1) for check in self.checks]
        return sum(found) / len(found) if found else None

    def __str__(self) -> str:
        factor, offset, dense = self._scale
        lines = [
            f"latency on {self.device}: dense {dense:.3g} ms; {len(self._segments(()))} segments, "
            f"{self._lookup.num_known} known on this machine, times {factor:.3g} plus {offset:.3g} ms"
        ]
        for check in self.checks:
            lines.append(
                f"  predicted {check.predicted:.3f} of dense, measured {check.measured:.3f} ± {check.error:.3f}"
            )
        if self.error is not None:
            lines.append(f"  the table was off by {self.error:.1%} on average")
        return "\n".join(lines)

    @property
    def _args(self) -> tuple[object, ...]:
        return tuple(self.graph.trace.args)

    @property
    def _kwargs(self) -> Mapping[str, object]:
        return dict(self.graph.trace.kwargs)

    def _segments(self, dropped: Sequence[str]) -> tuple[Segment, ...]:
        key = tuple(sorted(dropped))
        if key not in self._cut:
            self._cut[key] = segments_of(self.graph, key)
        return self._cut[key]

    @cached_property
    def _cut(self) -> dict[tuple[str, ...], tuple[Segment, ...]]:
        return {}

    @cached_property
    def _built(self) -> dict[tuple[tuple[int, ...], tuple[int, ...]], Built]:
        return {}

    @cached_property
    def _scale(self) -> tuple[float, float, float]:
        """Factor and offset in milliseconds, and the dense model's milliseconds."""
        half = {g.name: about(g, 0.5) for g in self.graph.groups}
        latency = self._against_dense(half)
        dense = latency.median_ms * latency.ratio_to_first
        whole, part = self._sum({}), self._sum(half)
        share = 1 / latency.ratio_to_first
        if part >= whole or share >= 1:
            return dense / whole, 0.0, dense
        # What is saved is explained by the sum; what is not is there in any structure, though never less than nothing.
        factor = min((1 - share) / (whole - part), 1 / whole) * dense
        return factor, dense - factor * whole, dense

    def _against_dense(self, sizes: Sizes, dropped: Sequence[str] = ()) -> Latency:
        model = structure(self.graph, sizes, dropped)
        calls = {"dense": self._dense_call, "pruned": self.device.prepare(model, self._args, self._kwargs)}
        batch = batch_of(self._args, self._kwargs)
        timed = self.device.timed(calls, repeats=ROUNDS, seconds=SECONDS, least_seconds=LEAST_SECONDS, batch=batch)
        return timed["pruned"]

    def _sum(self, sizes: Sizes, dropped: Sequence[str] = ()) -> float:
        """Add up the segments, in units of the lookup."""
        parts = [self._at(segment, sizes) for segment in self._segments(dropped)]
        known = self._lookup.all(parts)
        return sum(known[built.signature] for built in parts)

    def _at(self, segment: Segment, sizes: Sizes) -> Built:
        key = (segment.nodes, tuple(sizes.get(name, self.graph[name].size) for name in segment.groups))
        if key not in self._built:
            self._built[key] = segment.at(sizes)
        return self._built[key]


def latency_table(graph: Graph, on: Device) -> LatencyTable | GivenTable:
    """Return what tells the latency of a model's structures on a device: measured here, or given."""
    return GivenTable(graph, on) if isinstance(on, Elsewhere) else LatencyTable(graph, on)


def structure(graph: Graph, sizes: Sizes, dropped: Sequence[str] = ()) -> nn.Module:
    """Return a model of that structure, to be timed: its weights are those of the first units, whichever they are.

    In the user's own class where that runs, else its graph; not proved.
    """
    surgery = graph.surgery({name: torch.arange(count) for name, count in sizes.items()}, dropped)
    model = copied(graph.model).eval()
    thin_(model, surgery)
    try:
        with torch.no_grad():
            model(*graph.trace.args, **graph.trace.kwargs)
    except Exception:  # whatever a class with fixed numbers raises
        return thinned_graph(copied(graph.model).eval(), graph, surgery)
    return model


def about(group: Group, share: float) -> int:
    """Return about such a share of a group's units, at a step of the kernels, and no fewer than have to stay."""
    step = step_for(group.size) if group.kind == "channel" else 1
    return max(group.minimum, min(group.size, math.ceil(group.size * share / step - 1e-9) * step))
