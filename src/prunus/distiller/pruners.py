"""Distiller's element-wise pruners: its names and keywords, our policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from prunus.axes import Graph
from prunus.distiller.names import as_names, by_names, find_names
from prunus.distiller.window import Window
from prunus.schedules import BaiduRNN, Policy, Schedule


class Pruner(Protocol):
    """A pruner as a schedule file defines it; when it acts is said where it is used."""

    def policies(
        self, model: nn.Module, window: Window, *, graph: Graph | None = None, name: str | None = None
    ) -> list[Policy]:
        """Return the policies that do the same here.

        graph: of this model; needed where weights go together. name: the policies' own, numbered where there are
            several.
        Raises NameNotFound for a parameter that the model does not have, InputError for whatever else is wrong.
        """


@dataclass(frozen=True, kw_only=True)
class MagnitudeParameterPruner:
    """Zero every |w| at or below its threshold, at each epoch of the window anew.

    thresholds: parameter -> threshold, `*` the default for all weights.
    """

    thresholds: Mapping[str, float]

    def policies(
        self, model: nn.Module, window: Window, *, graph: Graph | None = None, name: str | None = None
    ) -> list[Policy]:
        """One policy."""
        return _elements(by_names(model, self.thresholds), "threshold", window.repeated(), name)


@dataclass(frozen=True, kw_only=True)
class SparsityLevelParameterPruner:
    """Zero a given share of each parameter, the smallest |w|, exactly that many.

    levels: parameter -> sparsity, `*` the default for all weights.
    """

    levels: Mapping[str, float]

    def policies(
        self, model: nn.Module, window: Window, *, graph: Graph | None = None, name: str | None = None
    ) -> list[Policy]:
        """One policy."""
        return _elements(by_names(model, self.levels), "per_layer", window.once(), name)


@dataclass(frozen=True, kw_only=True)
class SensitivityPruner:
    """Zero every |w| at or below q · std(w), with the std of the first epoch, at each epoch of the window anew.

    sensitivities: parameter -> q, `*` the default for all weights.
    """

    sensitivities: Mapping[str, float]

    def policies(
        self, model: nn.Module, window: Window, *, graph: Graph | None = None, name: str | None = None
    ) -> list[Policy]:
        """One policy."""
        return _elements(by_names(model, self.sensitivities), "sensitivity", window.repeated(), name)


@dataclass(frozen=True, kw_only=True)
class SplicingPruner:
    """Dynamic network surgery: weights below the low threshold go, above the high one they come back.

    sensitivities: parameter -> q, `*` the default for all weights. low_thresh_mult, hi_thresh_mult: times
        mean|w| + q · std|w| of the first epoch. sensitivity_multiplier: q grows by this share of itself per epoch.
    """

    sensitivities: Mapping[str, float]
    low_thresh_mult: float
    hi_thresh_mult: float
    sensitivity_multiplier: float = 0.0

    def policies(
        self, model: nn.Module, window: Window, *, graph: Graph | None = None, name: str | None = None
    ) -> list[Policy]:
        """One policy."""
        given = by_names(model, self.sensitivities)
        grown = 1 + self.sensitivity_multiplier * (window.times[-1] - window.times[0])
        allocation = {
            "sensitivities": {pattern: value * grown for pattern, value in given.items()},
            "low": self.low_thresh_mult,
            "high": self.hi_thresh_mult,
        }
        when = window.repeated(None if grown == 1 else 1 / grown)
        return [_policy(list(given), {"splicing": allocation}, when, name)]


@dataclass(frozen=True, kw_only=True)
class AutomatedGradualPruner:
    """AGP over single weights: each parameter from the initial to the final sparsity along the window."""

    initial_sparsity: float
    final_sparsity: float
    weights: str | Sequence[str]

    def policies(
        self, model: nn.Module, window: Window, *, graph: Graph | None = None, name: str | None = None
    ) -> list[Policy]:
        """One policy."""
        targets = find_names(model, as_names(self.weights))
        return [_policy(targets, "uniform", window.gradual(self.initial_sparsity, self.final_sparsity), name)]


@dataclass(frozen=True, kw_only=True)
class BaiduRNNPruner:
    """A threshold that grows along Narang's ramp.

    q: sets the slope, θ = 2q / (2·(ramp - start) + 3·(end - ramp)) per epoch, end exclusive. ramp_epoch_offset: epochs
        after the start at which it becomes `ramp_slope_mult` times as steep.
    """

    q: float
    ramp_epoch_offset: int
    ramp_slope_mult: float
    weights: str | Sequence[str]

    def policies(
        self, model: nn.Module, window: Window, *, graph: Graph | None = None, name: str | None = None
    ) -> list[Policy]:
        """One policy."""
        start, end, offset = window.times[0], window.ending_epoch - window.origin, self.ramp_epoch_offset
        if window.epochs:
            end = window.times[-1] + 1
        slope = 2 * self.q / (2 * offset + 3 * (end - start - offset))
        ramp = BaiduRNN(
            begin=start,
            ramp=start + offset,
            end=window.times[-1],
            every=1 if window.epochs else window.frequency,
            steepness=self.ramp_slope_mult,
        )
        when = window.listed(ramp.fraction) if window.epochs else ramp
        targets = find_names(model, as_names(self.weights))
        return _elements(dict.fromkeys(targets, slope * ramp.height), "threshold", when, name)


def _elements(given: Mapping[str, float], allocation: str, when: Schedule, name: str | None) -> list[Policy]:
    return [_policy(list(given), {allocation: given}, when, name)]


def _policy(targets: list[str], allocation: str | dict[str, Any], when: Schedule, name: str | None) -> Policy:
    return Policy(name=name, granularity="element", targets=targets, allocation=allocation, schedule=when)
