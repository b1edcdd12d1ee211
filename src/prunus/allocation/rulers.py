"""From counts of pruned units to what a budget is of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from prunus.allocation.base import ScoredTarget
from prunus.allocation.budget import Budget
from prunus.axes import Graph
from prunus.errors import InputError
from prunus.granularity import COUPLED, Depth, Granularity, JoinedUnits, Target

Counts = Mapping[str, int]
"""Units to prune per target."""


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
) -> Callable[[Counts], tuple[float, float]]:
    """Return a function from counts to the budget's quantity, pruned and dense."""
    by_depth, structured = isinstance(kind, Depth), isinstance(kind, Depth) or kind.name in COUPLED
    full = graph.size()
    elements = {t.name: t.parts[0].units.shape.numel() / max(1, t.num_units) for t in targets}
    total = sum(t.parts[0].units.shape.numel() for t in targets)

    def structured_size(counts: Counts) -> tuple[float, float]:
        if by_depth:
            left = graph.size({}, dropped(targets[0], scored, counts))
        else:
            left = graph.size({name: graph[name].size - count for name, count in counts.items()})
        if budget.quantity == "sparsity":
            return 1 - left.params / full.params, 0.0
        quantity = "params" if budget.quantity == "nnz" else budget.quantity
        return getattr(left, quantity), getattr(full, quantity)

    def zeros(counts: Counts) -> tuple[float, float]:
        gone = sum(count * elements[name] for name, count in counts.items())
        if budget.quantity == "sparsity":
            return gone / total, 0.0
        return full.params - gone, full.params

    if not structured and budget.quantity not in ("sparsity", "nnz"):
        raise InputError(
            f"zeroed elements do not lower {budget.quantity}; ask for sparsity= or nnz=, or use granularity='filter'"
        )
    return structured_size if structured else zeros
