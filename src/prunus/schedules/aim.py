"""A policy's budget: how many units lead to it at a point of the schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property

from torch import nn

from prunus.allocation import (
    Budget,
    Left,
    Ruler,
    ScoredTarget,
    Timing,
    is_structured,
    latency_ruler,
    levelled,
    meet,
    meet_latency,
    structure_ruler,
    zeros_ruler,
)
from prunus.axes import Graph
from prunus.errors import InputError, NothingToPrune
from prunus.granularity import Granularity
from prunus.runtimes import GivenTable, LatencyTable, device, latency_table

Sizes = Mapping[str, int]
"""Units by target or group."""


class Aim:
    """What a policy's budget asks for on a model.

    timing: how the latency that was asked for was met at last, else None.
    Raises InputError where filters or channels are pruned without a graph.
    """

    def __init__(self, budget: Budget, kind: Granularity, model: nn.Module, graph: Graph | None) -> None:
        self.timing: Timing | None = None
        self._is_fitted = False
        self._budget, self._model, self._graph = budget, model, graph
        self._is_structured = is_structured(kind)
        if self._is_structured and graph is None:
            raise InputError(
                f"target: {budget} needs the model's structure; give graph=prunus.trace(model, inputs), or "
                "schedule.final instead"
            )

    def counts(
        self,
        at: Callable[[float], dict[str, int]],
        progress: float,
        others: Sizes,
        scored: Mapping[str, ScoredTarget],
    ) -> Sizes:
        """Return the units to prune per target once so much of the way is due.

        at: from a fraction to counts. progress: above 0, 1 at the end. others: units left in other policies' groups.
        scored: the targets as `at` sees them.
        """
        timed, ruler, least = self._budget.quantity == "latency", self._ruler(others, scored), at(0.0)
        steps = {name: target.round_to for name, target in scored.items()}
        if timed:
            self._fit(at, ruler, others, steps)
        eased = self._budget.eased(progress, ruler({})[1])
        if eased.is_met(*ruler(least)):  # what went before, or what others prune, leads so far
            if timed and progress >= 1:
                self.timing = self._timing(least, others)
            return least
        if progress >= 1 and timed:
            left = self._left(others)
            chosen, self.timing = meet_latency(self._table, self._budget, at, left, self._equal, steps)
            return chosen
        if progress >= 1:
            return meet(eased, at, ruler, self._equal, steps)
        try:
            found = meet(eased, at, ruler, self._equal, steps)
        except InputError:
            return least  # out of reach for now; others may help before the end
        beyond = self._budget.is_met(*ruler(found))  # a dear unit
        return meet(self._budget, at, ruler, self._equal, steps) if beyond else found

    def _timing(self, counts: Sizes, others: Sizes) -> Timing:
        asked, on = self._budget.allowed(self._table.dense_ms), str(self._table.device)
        check = self._table.measure(*self._left(others)(counts)) if isinstance(self._table, LatencyTable) else None
        return Timing(asked, on, check, str(self._table))

    def _fit(self, at: Callable[[float], dict[str, int]], ruler: Ruler, others: Sizes, steps: Sizes) -> None:
        """Correct the table by a structure near the budget, once: what earlier steps prune too much stays pruned."""
        if self._is_fitted or not isinstance(self._table, LatencyTable):
            return
        self._is_fitted = True
        with suppress(InputError, NothingToPrune):  # by the table out of reach, or met by what others prune
            chosen = meet(self._budget, at, ruler, self._equal, steps)
            self._table.refit([self._left(others)(chosen)[0]])

    def check(self, most: Sizes, others: Sizes, scored: Mapping[str, ScoredTarget]) -> None:
        """Raise InputError where the budget is out of reach, NothingToPrune where the dense model meets it.

        most: the most units that may go, per target. others: the fewest that other policies may leave, by group.
        scored: the targets, with any scores.
        """
        if self._budget.is_met(*self._ruler({}, scored)({})):
            raise NothingToPrune(f"target: {self._budget} is met by the dense model as it is; ask for less")
        value, dense = self._ruler(others, scored)(levelled(dict(most), self._equal))
        if not self._budget.is_met(value, dense):
            shown = f"{value / dense:.3f} of the dense model" if self._budget.relative else f"{value:.6g}"
            raise InputError(
                f"target: {self._budget} is out of reach: with all that the policies may prune, "
                f"{self._budget.quantity} gets to {shown}"
            )

    def _ruler(self, others: Sizes, scored: Mapping[str, ScoredTarget]) -> Ruler:
        if not self._is_structured:
            parameters = sum(parameter.numel() for parameter in self._model.parameters())
            return zeros_ruler(self._budget, scored, parameters)
        if self._budget.quantity == "latency":
            return latency_ruler(self._table, self._left(others))
        assert self._graph is not None
        return structure_ruler(self._graph, self._budget, self._left(others))

    def _left(self, others: Sizes) -> Left:
        graph = self._graph
        assert graph is not None

        def left(counts: Sizes) -> tuple[dict[str, int], tuple[str, ...]]:
            own = {name: graph[name].size - count for name, count in counts.items() if count}
            return {**others, **{name: min(size, others.get(name, size)) for name, size in own.items()}}, ()

        return left

    @property
    def _equal(self) -> tuple[tuple[str, ...], ...]:
        return () if self._graph is None else self._graph.equal

    @cached_property
    def _table(self) -> LatencyTable | GivenTable:
        assert self._graph is not None
        return latency_table(self._graph, device(self._budget.device or "torch"))
