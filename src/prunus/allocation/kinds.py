"""Uniform, per layer, global; and every allocation by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from prunus.allocation.base import Allocator, ScoredTarget
from prunus.allocation.counts import check_ratio, num_pruned
from prunus.allocation.curves import FromCurves
from prunus.allocation.erdos_renyi import ErdosRenyi, ErdosRenyiKernel
from prunus.allocation.lamp import Lamp
from prunus.allocation.linear import Linear
from prunus.allocation.owl import Owl
from prunus.allocation.patterns import filled, matched
from prunus.allocation.ranking import ranked_counts
from prunus.allocation.thresholds import Sensitivity, Splicing, Threshold
from prunus.criteria.base import Normalise, normalised
from prunus.errors import InputError, NameNotFound


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
    The fraction is of the targets' elements for weights, of the units for coupled groups; see `ranked_counts`.
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
        return ranked_counts(targets, fraction, lambda scores: normalised(scores, self.normalise))


def allocator(spec: str | Mapping[str, Any] | Allocator) -> Allocator:
    """Read an allocator.

    spec: `uniform`, `global`, `{"global": {"normalise": "max"}}`, `erdos_renyi_kernel`, `erdos_renyi`, `lamp`, `owl`,
        `{"owl": {"m": 5, "spread": 0.08}}`, `{"linear": {"first": 0.3, "last": 0.7}}`, `{"curves": {"file": path,
        "max_drop": 0.02}}`, `{"per_layer": {pattern: ratio}}`, `{"threshold": {pattern: threshold}}`,
        `{"sensitivity": {pattern: q}}`, `{"splicing": {"sensitivities": {…}, "low": 0.9, "high": 1.1}}`, or an object
        with `name`, `uses_progress` and `counts`.
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


_MAPPED: Mapping[str, Callable[[Mapping[str, Any]], Allocator]] = {
    "per_layer": PerLayer,
    "threshold": Threshold,
    "sensitivity": Sensitivity,
}
"""Those whose mapping is one of patterns."""
_OPTED: Mapping[str, Callable[..., Allocator]] = {
    "uniform": Uniform,
    "global": Global,
    "erdos_renyi": ErdosRenyi,
    "erdos_renyi_kernel": ErdosRenyiKernel,
    "lamp": Lamp,
    "owl": Owl,
    "linear": Linear,
    "curves": FromCurves.read,
    "splicing": Splicing,
}
"""Those whose mapping is one of options."""
_KNOWN = (*_OPTED, *_MAPPED)


def _named(name: str, options: object) -> Allocator:
    if name not in _KNOWN:
        raise NameNotFound.of("allocation", name, _KNOWN)
    if not isinstance(options, Mapping):
        raise InputError(f"allocation {name} is given {options!r}; a mapping is wanted")
    if name in _MAPPED:
        return _MAPPED[name](options)
    parameters = inspect.signature(_OPTED[name]).parameters
    for key in options:
        if key not in parameters:
            raise NameNotFound.of(f"option of allocation {name}", str(key), parameters)
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in options:
            raise InputError(f"allocation {name} lacks {key}; write {{{name}: {{{', '.join(parameters)}}}}}")
    return _OPTED[name](**options)
