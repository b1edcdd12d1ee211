"""Uniform, per layer, global; and every allocation by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunus.allocation.base import Allocator, ScoredTarget
from prunus.allocation.counts import check_ratio, num_pruned
from prunus.allocation.patterns import filled, matched
from prunus.allocation.thresholds import Sensitivity, Splicing, Threshold
from prunus.criteria.base import Normalise, normalised
from prunus.errors import InputError, NameNotFound
from prunus.selection import lowest_k


@dataclass(frozen=True)
class Uniform:
    """The same share of every target: floor(fraction · U + 1/2) of its U units."""

    name: ClassVar[str] = "uniform"
    uses_progress: ClassVar[bool] = False

    def counts(self, targets: Mapping[str, ScoredTarget], fraction: float) -> dict[str, int]:
        """Return the units to prune per target."""
        return {name: t.bounded(num_pruned(fraction, t.num_units)) for name, t in targets.items()}


@dataclass(frozen=True)
class PerLayer:
    """A given share of each target; the first pattern that matches its name counts, the rest is left alone.

    ratios: pattern over target names, or over the names of a group's scored parameters, to a sparsity in
        [0, 1).
    """

    ratios: Mapping[str, float]
    uses_progress: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checked = {pattern: check_ratio(f"ratio of {pattern}", ratio) for pattern, ratio in self.ratios.items()}
        object.__setattr__(self, "ratios", filled("per_layer", checked))

    @property
    def name(self) -> str:
        """`per_layer`."""
        return "per_layer"

    def counts(self, targets: Mapping[str, ScoredTarget], fraction: float) -> dict[str, int]:
        """Return the units to prune per target; fraction: progress from 0 to 1, which scales every ratio.

        Raises NameNotFound when a pattern matches no target.
        """
        given = matched(self.ratios, targets)
        return {
            name: target.bounded(num_pruned(given[name] * fraction, target.num_units)) if name in given else 0
            for name, target in targets.items()
        }


@dataclass(frozen=True)
class Global:
    """One threshold over the normalised scores of all targets: the weakest units go first, wherever they are.

    normalise: how the scores of different targets are made comparable; without it a global L1 rank removes
        one layer whole and leaves others untouched.
    The fraction is of the targets' elements for weights, of the units for coupled groups. Units of equal
    cost: exactly floor(fraction · total + 1/2) of all. Units of different cost: as many as fit, the first
        that does not ends it.
    """

    normalise: Normalise = "mean"
    uses_progress: ClassVar[bool] = False

    def __post_init__(self) -> None:
        normalised(torch.zeros(0), self.normalise)

    @property
    def name(self) -> str:
        """`global`."""
        return "global"

    def counts(self, targets: Mapping[str, ScoredTarget], fraction: float) -> dict[str, int]:
        """Return the units to prune per target; n:m targets keep their fixed number."""
        free = {name: target for name, target in targets.items() if target.fixed is None}
        ranked = [_expendable(normalised(t.scores, self.normalise), t.minimum) for t in free.values()]
        if len({target.weight for target in free.values()}) <= 1:
            total = sum(target.num_units for target in free.values())
            wanted = min(num_pruned(fraction, total), sum(scores.numel() for scores in ranked))
            found = [int(mask.sum()) for mask in lowest_k(ranked, wanted)]
        else:
            found = _weighted_counts(ranked, list(free.values()), fraction)
        chosen = dict(zip(free, found, strict=True))
        return {name: target.bounded(chosen.get(name, 0)) for name, target in targets.items()}


def allocator(spec: str | Mapping[str, Any] | Allocator) -> Allocator:
    """Read an allocator.

    spec: `uniform`, `global`, `{"global": {"normalise": "max"}}`, `{"per_layer": {pattern: ratio}}`,
        `{"threshold": {pattern: threshold}}`, `{"sensitivity": {pattern: q}}`, `{"splicing": {"sensitivities": {…},
        "low": 0.9, "high": 1.1}}`, or an object with `name`, `uses_progress` and `counts`.
    Raises NameNotFound for an unknown name, InputError for anything else.
    """
    if isinstance(spec, str):
        return _named(spec, {})
    if isinstance(spec, Mapping):
        if len(spec) != 1:
            raise InputError(f"allocation has keys {list(spec)}; exactly one of {', '.join(_KNOWN)} is wanted")
        name, options = next(iter(spec.items()))
        return _named(str(name), options)
    if isinstance(spec, type) or not isinstance(spec, Allocator):
        raise InputError(f"allocation is {spec!r}; 'uniform', 'global' or an object with counts() is wanted")
    return spec


_KNOWN = ("uniform", "global", "per_layer", "threshold", "sensitivity", "splicing")
_OPTIONS = {"global": ("normalise",), "splicing": ("sensitivities", "low", "high")}


def _named(name: str, options: object) -> Allocator:
    if name not in _KNOWN:
        raise NameNotFound.of("allocation", name, _KNOWN)
    if not isinstance(options, Mapping):
        raise InputError(f"allocation {name} is given {options!r}; a mapping is wanted")
    if name == "per_layer":
        return PerLayer(options)
    if name == "threshold":
        return Threshold(options)
    if name == "sensitivity":
        return Sensitivity(options)
    allowed = _OPTIONS.get(name, ())
    for key in options:
        if key not in allowed:
            raise NameNotFound.of(f"option of allocation {name}", str(key), allowed)
    if name == "splicing":
        return Splicing(**options)
    return Global(**options) if name == "global" else Uniform()


def _expendable(scores: Tensor, minimum: int) -> Tensor:
    """Return the scores without those of the `minimum` best units, which are never pruned."""
    if minimum == 0:
        return scores
    return scores[lowest_k([scores], max(0, scores.numel() - minimum))[0]]


def _weighted_counts(ranked: list[Tensor], targets: list[ScoredTarget], fraction: float) -> list[int]:
    """Prune the lowest scores of all while their cost fits into the fraction of the total cost."""
    owner = torch.cat([torch.full((scores.numel(),), i) for i, scores in enumerate(ranked)])
    costs = torch.tensor([target.weight for target in targets], dtype=torch.float64)
    order = torch.cat([scores.double().cpu() for scores in ranked]).argsort(stable=True)
    goal = fraction * sum(target.num_units * target.weight for target in targets)
    spent = costs[owner[order]].cumsum(0)
    taken = order[spent <= goal * (1 + 1e-12)]
    return torch.bincount(owner[taken], minlength=len(targets)).tolist()
