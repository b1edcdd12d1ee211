"""A latency that ratios from curves keep to: estimated, then measured of whole models, and corrected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from prunus.allocation import Timing, approach
from prunus.axes import Graph
from prunus.runtimes import device, latency_table
from prunus.sensitivity.filling import Filling

Ratios = dict[str, float]


def measured_ratios(filling: Filling, graph: Graph) -> tuple[Ratios, Timing]:
    """Fill a latency; where the whole model is then measured to take longer, or much less, aim elsewhere.

    graph: the one that the curves were timed with. Returns the ratios, and what was measured of them.
    Raises InputError where the levels do not reach the budget.
    """
    budget, costs = filling.budget, filling.costs
    table = latency_table(graph, device(budget.device or "torch"))
    found: list[tuple[dict[str, int], Ratios]] = []

    def chosen_at(share: float) -> dict[str, int]:
        ratios = replace(filling, budget=replace(budget, limit=share, relative=True)).fill()
        counts = costs.counts(ratios, round_to=filling.round_to)
        found.append((counts, ratios))
        return counts

    def left(counts: Mapping[str, int]) -> tuple[dict[str, int], tuple[str, ...]]:
        return {name: graph[name].size - count for name, count in counts.items() if count}, ()

    best, timing = approach(table, budget.allowed(table.dense_ms), chosen_at, left)
    return next(ratios for counts, ratios in found if counts == best), timing
