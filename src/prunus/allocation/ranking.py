"""One ranking over the units of all targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from prunus.allocation.base import ScoredTarget
from prunus.allocation.counts import num_pruned
from prunus.selection import lowest_k


def ranked_counts(
    targets: Mapping[str, ScoredTarget], fraction: float, comparable: Callable[[Tensor], Tensor]
) -> dict[str, int]:
    """Return the units to prune per target: those that are the weakest of all.

    comparable: turns a target's scores, (U,), into scores that may be compared with other targets', in the same order.
    Units of equal cost: exactly floor(fraction · total + 1/2) of all. Units of different cost: as many as fit, the
    first that does not ends it. n:m targets keep their fixed number and do not count.
    """
    free = {name: target for name, target in targets.items() if target.fixed is None}
    ranked = {name: comparable(target.scores) for name, target in free.items()}
    going = {name: _expendable(ranked[name], target.minimum) for name, target in free.items()}
    weak = [ranked[name][going[name]] for name in free]
    if len({target.weight for target in free.values()}) <= 1 and all(target.sizes is None for target in free.values()):
        total = sum(target.num_units for target in free.values())
        wanted = min(num_pruned(fraction, total), sum(scores.numel() for scores in weak))
        found = [int(mask.sum()) for mask in lowest_k(weak, wanted)]
    else:
        costs = [target.costs[going[name]] for name, target in free.items()]
        goal = fraction * sum(target.spent(target.num_units) for target in free.values())
        found = _weighted_counts(weak, costs, goal)
    chosen = dict(zip(free, found, strict=True))
    return {name: target.bounded(chosen.get(name, 0)) for name, target in targets.items()}


def _expendable(scores: Tensor, minimum: int) -> Tensor | slice:
    """Return where the scores are without those of the `minimum` best units, which are never pruned."""
    if minimum == 0:
        return slice(None)
    return lowest_k([scores], max(0, scores.numel() - minimum))[0]


def _weighted_counts(ranked: list[Tensor], costs: list[Tensor], goal: float) -> list[int]:
    """Prune the lowest scores of all while their costs, one per unit, fit into the goal."""
    owner = torch.cat([torch.full((scores.numel(),), i) for i, scores in enumerate(ranked)])
    order = torch.cat([scores.double().cpu() for scores in ranked]).argsort(stable=True)
    spent = torch.cat([each.double() for each in costs])[order].cumsum(0)
    taken = order[spent <= goal * (1 + 1e-12)]
    return torch.bincount(owner[taken], minlength=len(ranked)).tolist()
