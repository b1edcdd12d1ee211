"""Every unit whose score is low enough: by a given threshold, by the spread of the weights, with hysteresis."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from prunus.allocation.base import ScoredTarget
from prunus.allocation.patterns import checked, matched
from prunus.errors import InputError


@dataclass(frozen=True)
class Threshold:
    """Prune every unit whose score is at most a given threshold; `*` is the default, the rest is left alone.

    thresholds: pattern over target names to a score, in the criterion's own unit; |w| for `l1` on elements.
    """

    thresholds: Mapping[str, float]
    name: ClassVar[str] = "threshold"
    uses_progress: ClassVar[bool] = True
    is_absolute: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "thresholds", checked("threshold", "threshold", self.thresholds))

    def counts(self, targets: Mapping[str, ScoredTarget], fraction: float) -> dict[str, int]:
        """Return the units to prune per target; fraction: progress from 0 to 1, which scales every threshold.

        Raises NameNotFound when a pattern other than `*` matches no target.
        """
        given = matched(self.thresholds, targets)
        return {
            name: target.bounded(_at_most(target.scores, given[name] * fraction)) if name in given else 0
            for name, target in targets.items()
        }


@dataclass(frozen=True)
class Sensitivity:
    """Prune every unit whose score is at most q · std(w), with the std that w had at the policy's first pruning.

    sensitivities: pattern over target names to q; `*` is the default, the rest is left alone. With `l1` on elements the
        score is |w|.
    Source: Han et al. 2015, arXiv:1506.02626, section 3: "a quality parameter multiplied by the standard deviation".
    """

    sensitivities: Mapping[str, float]
    name: ClassVar[str] = "sensitivity"
    uses_progress: ClassVar[bool] = True
    is_absolute: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "sensitivities", checked("sensitivity", "sensitivity", self.sensitivities))

    def measure(self, weights: Tensor) -> dict[str, float]:
        """Return the std of the weights, (n,), with n - 1 in the denominator."""
        return {"std": _std(weights)}

    def counts(self, targets: Mapping[str, ScoredTarget], fraction: float) -> dict[str, int]:
        """Return the units to prune per target; fraction: progress from 0 to 1, which scales every q.

        Raises NameNotFound when a pattern other than `*` matches no target.
        """
        given = matched(self.sensitivities, targets)
        return {
            name: target.bounded(_at_most(target.scores, given[name] * target.measured["std"] * fraction))
            if name in given
            else 0
            for name, target in targets.items()
        }


@dataclass(frozen=True)
class Splicing:
    """Prune below one threshold, bring back at a higher one: dynamic network surgery.

    A unit goes when its score is below t · low, comes back when it is at least t · high, and stays what it is between,
    with t = mean|w| + q · std|w| as they were at the policy's first pruning. The weights that are pruned live on behind
    their mask (`MaskSet.set_(…, hide=True)`) and are scored by what they have become there.
    sensitivities: pattern over target names to q; `*` is the default, the rest is left alone.
    Source: Guo et al. 2016, arXiv:1608.04493, equation 3; 0.9 and 1.1 are the authors'.
    """

    sensitivities: Mapping[str, float]
    low: float = 0.9
    high: float = 1.1
    name: ClassVar[str] = "splicing"
    uses_progress: ClassVar[bool] = True
    is_absolute: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "sensitivities", checked("splicing", "sensitivity", self.sensitivities))
        if not 0 <= self.low <= self.high < math.inf:
            raise InputError(f"splicing has low {self.low!r} and high {self.high!r}; 0 <= low <= high is wanted")

    def measure(self, weights: Tensor) -> dict[str, float]:
        """Return mean and std, with n - 1 in the denominator, of |weights|, (n,)."""
        sizes = weights.abs()
        return {"mean": float(sizes.mean()), "std": _std(sizes)}

    def counts(self, targets: Mapping[str, ScoredTarget], fraction: float) -> dict[str, int]:
        """Return how many units `chosen` marks."""
        return {name: int(units.sum()) for name, units in self.chosen(targets, fraction).items()}

    def chosen(self, targets: Mapping[str, ScoredTarget], fraction: float) -> dict[str, Tensor]:
        """Return the units to prune per target, (U,) bool; fraction: progress from 0 to 1, which scales every q.

        Raises NameNotFound when a pattern other than `*` matches no target.
        """
        given = matched(self.sensitivities, targets)
        return {
            name: self._surgery(target, given[name] * fraction) if name in given else target.pruned
            for name, target in targets.items()
        }

    def _surgery(self, target: ScoredTarget, sensitivity: float) -> Tensor:
        middle = target.measured["mean"] + sensitivity * target.measured["std"]
        return (target.scores < middle * self.low) | (target.pruned & (target.scores < middle * self.high))


def _at_most(scores: Tensor, threshold: float) -> int:
    return int((scores <= threshold).sum())


def _std(values: Tensor) -> float:
    return float(values.std()) if values.numel() > 1 else 0.0
