"""A policy's budget: how many units lead to it at a point of the schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
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
from prunus.granularity import Target, granularity
from prunus.runtimes import GivenTable, LatencyTable, device, latency_table
from prunus.schedules.policy import Policy

Sizes = Mapping[str, int]
"""Units left, by group."""


class Aim:
    """What a policy's budget asks for on a model.

    timing: how the latency that was asked for was met at last, else None.
    Raises InputError where filters or channels are pruned without a graph, or the budget is out of reach of all that
    the policy may prune, NothingToPrune where the dense model meets it.
    """

    def __init__(
        self, policy: Policy, budget: Budget, targets: Sequence[Target], model: nn.Module, graph: Graph | None
    ) -> None:
        self.timing: Timing | None = None
        self._budget, self._targets, self._model, self._graph = budget, targets, model, graph
        self._is_structured = is_structured(granularity(policy.granularity))
        if self._is_structured and graph is None:
            raise InputError(
                f"target: {budget} needs the model's structure; give graph=prunus.trace(model, inputs), or "
                "schedule.final instead"
            )
        self._check(policy)

    def counts(self, at: Callable[[float], dict[str, int]], progress: float, others: Sizes, steps: Sizes) -> Sizes:
        """Return the units to prune per target once so much of the way is due.

        at: from a fraction to counts. progress: above 0, 1 at the end. others: groups that other policies prune.
        steps: as for `prunus.allocation.meet`.
        """
        if progress >= 1 and self._budget.quantity == "latency":
            chosen, self.timing = meet_latency(self._table, self._budget, at, self._left(others), self._equal, steps)
            return chosen
        ruler = self._ruler(others)
        eased = self._budget.eased(progress, ruler({})[1])
        if eased.is_met(*ruler(at(0.0))):
            return at(0.0)  # what went before, rounded, leads further
        return meet(eased, at, ruler, self._equal, steps)

    def _check(self, policy: Policy) -> None:
        nothing = {target.name: torch.zeros(target.num_units) for target in self._targets}
        limits = {"round_to": policy.step, "max_ratio": policy.max_ratio}
        scored = {t.name: ScoredTarget.of(t, nothing[t.name], **limits) for t in self._targets}  # type: ignore[arg-type]
        most = levelled({name: target.bounded(target.num_units) for name, target in scored.items()}, self._equal)
        ruler = self._ruler({})
        value, dense = ruler(most)
        if self._budget.is_met(*ruler({})):
            raise NothingToPrune(f"target: {self._budget} is met by the dense model as it is; ask for less")
        if not self._budget.is_met(value, dense):
            shown = f"{value / dense:.3f} of the dense model" if dense else f"{value:.3f}"
            raise InputError(
                f"target: {self._budget} is out of reach: with all that this policy may prune, "
                f"{self._budget.quantity} gets to {shown}"
            )

    def _ruler(self, others: Sizes) -> Ruler:
        if not self._is_structured:
            parameters = sum(parameter.numel() for parameter in self._model.parameters())
            return zeros_ruler(self._budget, self._targets, parameters)
        if self._budget.quantity == "latency":
            return latency_ruler(self._table, self._left(others))
        assert self._graph is not None
        return structure_ruler(self._graph, self._budget, self._left(others))

    def _left(self, others: Sizes) -> Left:
        graph = self._graph
        assert graph is not None
        return lambda counts: ({**others, **{name: graph[name].size - n for name, n in counts.items() if n}}, ())

    @property
    def _equal(self) -> tuple[tuple[str, ...], ...]:
        return () if self._graph is None else self._graph.equal

    @cached_property
    def _table(self) -> LatencyTable | GivenTable:
        assert self._graph is not None
        return latency_table(self._graph, device(self._budget.device or "torch"))
