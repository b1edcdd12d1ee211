"""From wished ratios to counts whose total is exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prunus.allocation.base import ScoredTarget
from prunus.allocation.counts import num_pruned

Ratios = Mapping[str, float]
"""Share of the units to prune per target; what lies outside of [0, 1] is cut to what may be pruned."""


def settled(
    targets: Mapping[str, ScoredTarget],
    fraction: float,
    wished: Callable[[float], Ratios],
    *,
    low: float,
    high: float,
) -> dict[str, int]:
    """Return the units to prune per target, so that all together are the fraction of everything.

    wished: ratios per target that do not fall as its argument, from `low` to `high`, rises. The argument is found at
        which the rounded counts, within floors and ceilings, come to floor(fraction · total + 1/2) units; what jumps at
        this very argument goes in the order of the targets. So counts never fall as the fraction rises.
    Units of different cost: as many as fit. n:m targets keep their fixed number and do not count.
    """
    free = {name: target for name, target in targets.items() if target.fixed is None}
    goal = _goal(free, fraction)

    def counts(level: float) -> dict[str, int]:
        ratios = wished(level)
        return {name: _within(ratios[name], target) for name, target in free.items()}

    def cost(found: Mapping[str, int]) -> float:
        return sum(count * free[name].weight for name, count in found.items())

    below, above = counts(low), counts(high)
    for _ in range(200):
        middle = (low + high) / 2
        found = counts(middle)
        if cost(found) == goal or middle in (low, high):
            below = found if cost(found) == goal else below
            break
        if cost(found) < goal:
            low, below = middle, found
        else:
            high, above = middle, found
    left = goal - cost(below)
    for name, target in free.items():
        more = max(0, min(above[name] - below[name], int(left / target.weight * (1 + 1e-12))))
        below[name] += more
        left -= more * target.weight
    return {name: target.bounded(below.get(name, 0)) for name, target in targets.items()}


def _goal(free: Mapping[str, ScoredTarget], fraction: float) -> float:
    """Return the cost to prune: whole units where all cost the same."""
    weights = {target.weight for target in free.values()}
    total = sum(target.num_units for target in free.values())
    if len(weights) == 1:
        return num_pruned(fraction, total) * weights.pop()
    return fraction * sum(target.num_units * target.weight for target in free.values())


def _within(ratio: float, target: ScoredTarget) -> int:
    """Return a count, half up, that leaves the units that must stay."""
    most = target.num_units - min(target.minimum, target.num_units)
    return min(most, num_pruned(min(1.0, max(0.0, ratio)), target.num_units))
