"""Distiller's regularizers: its names and keywords, our terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from prunus.axes import Graph
from prunus.distiller.names import by_names
from prunus.distiller.pruners import MagnitudeParameterPruner
from prunus.distiller.ranked import StructureParameterPruner, read_regime
from prunus.distiller.structures import GROUPS, group_named
from prunus.distiller.window import Window
from prunus.regularizers import L1, GroupLasso, GroupVariance, Regularizer
from prunus.schedules import Policy


class DistillerRegularizer(Protocol):
    """A regularizer as a schedule file defines it."""

    def terms(self, model: nn.Module, *, name: str | None = None) -> list[Regularizer]:
        """Return the terms of the loss that are the same, one per strength and kind of group.

        name: under which they are logged, numbered where there are several; the class's word by default.
        Raises NameNotFound or InputError.
        """

    def policies(
        self, model: nn.Module, window: Window, *, graph: Graph | None = None, name: str | None = None
    ) -> list[Policy]:
        """Return the policies that zero what is at or below its strength: none without `threshold_criteria`."""


@dataclass(frozen=True, kw_only=True)
class L1Regularizer:
    """λ Σ |w|, with a strength per parameter.

    reg_regims: parameter -> strength. threshold_criteria: any; every |w| at or below its strength then is zeroed.
    """

    reg_regims: Mapping[str, float]
    threshold_criteria: str | None = None

    def terms(self, model: nn.Module, *, name: str | None = None) -> list[Regularizer]:
        """One term per strength."""
        by_strength: dict[float, list[str]] = {}
        for parameter, strength in by_names(model, self.reg_regims).items():
            by_strength.setdefault(strength, []).append(parameter)
        names = _names(name or "l1", len(by_strength))
        found = zip(by_strength.items(), names, strict=True)
        return [L1(strength, targets=targets, name=each) for (strength, targets), each in found]

    def policies(
        self, model: nn.Module, window: Window, *, graph: Graph | None = None, name: str | None = None
    ) -> list[Policy]:
        """None, or that of a `MagnitudeParameterPruner`."""
        if self.threshold_criteria is None:
            return []
        return MagnitudeParameterPruner(thresholds=self.reg_regims).policies(model, window, graph=graph, name=name)


@dataclass(frozen=True, kw_only=True)
class GroupLassoRegularizer:
    """λ Σ_g ‖w_g‖₂, without √|g|, with strength and groups per parameter.

    reg_regims: parameter -> [strength, group type]; types joined by `+` are a term each. threshold_criteria:
        `Mean_Abs` or `Max`; groups at or below their strength then are zeroed.
    """

    reg_regims: Mapping[str, Sequence[Any]]
    threshold_criteria: str | None = None

    def terms(self, model: nn.Module, *, name: str | None = None) -> list[Regularizer]:
        """One term per strength and kind of group."""
        found = _by_group(model, self.reg_regims, GROUPS)
        names = _names(name or "group_lasso", len(found))
        return [
            GroupLasso(strength, kind, targets, name=each, size="none")
            for ((strength, kind), targets), each in zip(found.items(), names, strict=True)
        ]

    def policies(
        self, model: nn.Module, window: Window, *, graph: Graph | None = None, name: str | None = None
    ) -> list[Policy]:
        """None, or those of a `StructureParameterPruner`."""
        if self.threshold_criteria is None:
            return []
        pruner = StructureParameterPruner(reg_regims=self.reg_regims, threshold_criteria=self.threshold_criteria)
        return pruner.policies(model, window, graph=graph, name=name)


@dataclass(frozen=True, kw_only=True)
class GroupVarianceRegularizer:
    """λ / Var_g ‖w_g‖₂ over the channels of each parameter.

    reg_regims: parameter -> [strength, Channels].
    """

    reg_regims: Mapping[str, Sequence[Any]]

    def terms(self, model: nn.Module, *, name: str | None = None) -> list[Regularizer]:
        """One term per strength."""
        found = _by_group(model, self.reg_regims, {"Channels": "channel"})
        names = _names(name or "group_variance", len(found))
        return [
            GroupVariance(strength, kind, targets, name=each, form="inverse")
            for ((strength, kind), targets), each in zip(found.items(), names, strict=True)
        ]

    def policies(
        self, model: nn.Module, window: Window, *, graph: Graph | None = None, name: str | None = None
    ) -> list[Policy]:
        """None."""
        return []


def _by_group(
    model: nn.Module, regimes: Mapping[str, Sequence[Any]], known: Mapping[str, str]
) -> dict[tuple[float, str], list[str]]:
    """Return the parameters of each strength and granularity."""
    found: dict[tuple[float, str], list[str]] = {}
    for parameter, regime in by_names(model, regimes).items():
        strength, group_types = read_regime(parameter, regime)
        for group_type in group_types.split("+"):
            found.setdefault((strength, group_named(group_type, known)), []).append(parameter)
    return found


def _names(name: str, total: int) -> list[str]:
    return [name] if total == 1 else [f"{name}_{number + 1}" for number in range(total)]
