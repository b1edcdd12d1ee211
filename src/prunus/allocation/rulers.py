"""From counts of pruned units to what a budget is of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from prunus.allocation.base import ScoredTarget
from prunus.allocation.budget import Budget
from prunus.axes import Graph
from prunus.costs import energies_of
from prunus.errors import InputError
from prunus.granularity import COUPLED, Depth, Granularity, JoinedUnits, Target
from prunus.runtimes import GivenTable, LatencyTable, device, latency_table

Counts = Mapping[str, int]
"""Units to prune per target."""
Left = Callable[[Counts], tuple[Mapping[str, int], Sequence[str]]]
"""Units left in the groups that lose some, and residual blocks that are left out."""
Ruler = Callable[[Counts], tuple[float, float]]
"""A quantity of the pruned and of the dense model."""


def dropped(target: Target, scored: Mapping[str, ScoredTarget], counts: Counts) -> tuple[str, ...]:
    """Name the residual blocks that go: those with the lowest scores."""
    units = target.parts[0].units
    assert isinstance(units, JoinedUnits)
    gone = units.pick(scored[target.name].scores, counts[target.name]).tolist()
    return tuple(block.name for block, goes in zip(units.blocks, gone, strict=True) if goes)


def ruler_of(
    graph: Graph,
    budget: Budget,
    kind: Granularity,
    targets: Sequence[Target],
    scored: Mapping[str, ScoredTarget],
) -> Ruler:
    """Return a function from counts to the budget's quantity, pruned and dense.

    A latency is looked up, in milliseconds; how `prunus.runtimes.LatencyTable` says.
    Raises InputError where zeros do not lower the quantity.
    """
    if not is_structured(kind):
        check_quantity(budget, kind)
        return zeros_ruler(budget, scored, graph.size().params)
    return structure_ruler(graph, budget, left_of(graph, kind, targets, scored))


def structure_ruler(graph: Graph, budget: Budget, left: Left) -> Ruler:
    """Return a function from counts to the budget's quantity of the structure that is left, pruned and dense."""
    if budget.quantity == "latency":
        return latency_ruler(latency_table(graph, device(budget.device or "torch")), left)
    if budget.quantity == "energy":
        energy = energies_of(graph)
        full = energy({}, ())
        return lambda counts: (energy(*left(counts)), full)
    return _sizes(graph, budget, left)


def is_structured(kind: Granularity) -> bool:
    """Tell whether what is pruned makes the model smaller."""
    return isinstance(kind, Depth) or kind.name in COUPLED


def left_of(graph: Graph, kind: Granularity, targets: Sequence[Target], scored: Mapping[str, ScoredTarget]) -> Left:
    """Return a function from counts to the units left by group, and the residual blocks that go."""
    if isinstance(kind, Depth):
        return lambda counts: ({}, dropped(targets[0], scored, counts))
    return lambda counts: ({name: graph[name].size - count for name, count in counts.items() if count}, ())


def latency_ruler(table: LatencyTable | GivenTable, left: Left) -> Ruler:
    """Return a function from counts to milliseconds by a table, pruned and dense."""
    return lambda counts: (table.predict(*left(counts)), table.dense_ms)


def _sizes(graph: Graph, budget: Budget, left: Left) -> Ruler:
    full = graph.size()
    quantity = "params" if budget.quantity in ("nnz", "sparsity") else budget.quantity

    def size(counts: Counts) -> tuple[float, float]:
        value, dense = (getattr(each, quantity) for each in (graph.size(*left(counts)), full))
        return (1 - value / dense, 0.0) if budget.quantity == "sparsity" else (value, dense)

    return size


def check_quantity(budget: Budget, kind: Granularity) -> None:
    """Raise InputError where a budget's quantity is not lowered by zeros, and zeros are all that there will be."""
    if is_structured(kind):
        return
    if budget.quantity == "latency":
        raise InputError(
            f"zeros do not become speed on {budget.device}: its kernels multiply them like any other number; ask for "
            "sparsity= or nnz=, or use granularity='filter'"
        )
    if budget.quantity not in ("sparsity", "nnz"):
        raise InputError(
            f"zeroed elements do not lower {budget.quantity}; ask for sparsity= or nnz=, or use granularity='filter'"
        )


def zeros_ruler(budget: Budget, scored: Mapping[str, ScoredTarget], params: int) -> Ruler:
    """Return a function from counts to the share of zeros among the targets, or to the non-zeros of all parameters."""
    total = sum(target.spent(target.num_units) for target in scored.values())

    def zeros(counts: Counts) -> tuple[float, float]:
        gone = sum(scored[name].spent(count) for name, count in counts.items())
        return (gone / total, 0.0) if budget.quantity == "sparsity" else (params - gone, params)

    return zeros
