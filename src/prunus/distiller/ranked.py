"""Distiller's pruners of structures: by thresholds, and by rank, at once or along AGP's ramp."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar

from torch import nn

from prunus.allocation import Allocator, check_ratio
from prunus.axes import Graph
from prunus.distiller.chance import Bernoulli
from prunus.distiller.names import as_names, by_names, find_names
from prunus.distiller.structures import group_granularity, led_by_first, ranked_granularity
from prunus.distiller.window import Window
from prunus.errors import InputError, NameNotFound
from prunus.schedules import Policy, Schedule

CRITERIA = {"Mean_Abs": "l1", "Max": "linf"}


@dataclass(frozen=True, kw_only=True)
class StructureParameterPruner:
    """Zero every group whose mean |w|, or largest, is at or below its threshold, at each epoch of the window anew.

    reg_regims: parameter -> [threshold, group type]. threshold_criteria: `Mean_Abs` or `Max`.
    """

    reg_regims: Mapping[str, Sequence[Any]]
    threshold_criteria: str = "Mean_Abs"

    def policies(
        self, model: nn.Module, window: Window, *, graph: Graph | None = None, name: str | None = None
    ) -> list[Policy]:
        """One policy per group type."""
        if self.threshold_criteria not in CRITERIA:
            raise NameNotFound.of("threshold_criteria", str(self.threshold_criteria), CRITERIA)
        by_type: dict[str, dict[str, float]] = {}
        for parameter, regime in by_names(model, self.reg_regims).items():
            threshold, group_type = read_regime(parameter, regime)
            by_type.setdefault(group_type, {})[parameter] = threshold
        return [
            Policy(
                name=numbered(name, number, len(by_type)),
                granularity=group_granularity(group_type),
                criterion=CRITERIA[self.threshold_criteria],
                targets=list(thresholds),
                allocation={"threshold": thresholds},
                schedule=window.repeated(),
            )
            for number, (group_type, thresholds) in enumerate(by_type.items())
        ]


def read_regime(parameter: str, regime: Any) -> tuple[float, str]:
    """Return number and group type; raises InputError for another form."""
    if isinstance(regime, str) or not isinstance(regime, Sequence) or len(regime) != 2:
        raise InputError(f"reg_regims of {parameter} is {regime!r}; [number, group type] is wanted, as [0.01, Filters]")
    return regime[0], str(regime[1])


def numbered(name: str | None, number: int, total: int) -> str | None:
    """Return a name for one of several."""
    return name if name is None or total == 1 else f"{name}#{number + 1}"


@dataclass(frozen=True, kw_only=True)
class Ranked(ABC):
    """What the ranked pruners share: of each parameter's groups the lowest by a criterion go.

    group_type: `Filters` or `3D`; of some also `Channels`, `Rows` and `Blocks`, with `kwargs: {block_shape: …}`.
    group_dependency: `Leader`, the first of the weights decides for all that go with it.
    """

    criterion: ClassVar[str]
    group_types: ClassVar[tuple[str, ...]] = ("3D", "Filters")
    solver: ClassVar[str | None] = None

    group_type: str
    weights: str | Sequence[str]
    group_dependency: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @abstractmethod
    def schedule(self, window: Window) -> Schedule:
        """When, and how much."""

    @property
    def ranking(self) -> str:
        """The criterion as a policy names it."""
        return self.criterion

    @property
    def allocation(self) -> str | Allocator:
        """How much from each."""
        return "uniform"

    def policies(
        self, model: nn.Module, window: Window, *, graph: Graph | None = None, name: str | None = None
    ) -> list[Policy]:
        """One policy."""
        if self.group_type not in self.group_types:
            raise NameNotFound.of(f"group_type of {type(self).__name__}", str(self.group_type), self.group_types)
        if self.group_dependency not in (None, "Leader"):
            raise NameNotFound.of("group_dependency", str(self.group_dependency), ("Leader",))
        kind = ranked_granularity(self.group_type, self.kwargs or {})
        targets = find_names(model, as_names(self.weights))
        is_led = self.group_dependency is not None
        return [
            Policy(
                name=name,
                granularity=kind,
                criterion=led_by_first(model, graph, kind, targets, self.ranking) if is_led else self.ranking,
                targets=targets,
                allocation=self.allocation,
                solver=self.solver,
                schedule=self.schedule(window),
            )
        ]


@dataclass(frozen=True, kw_only=True)
class Level(Ranked):
    """A share of each at once."""

    desired_sparsity: float

    def schedule(self, window: Window) -> Schedule:
        """At the first epoch."""
        return window.once(self.desired_sparsity)


@dataclass(frozen=True, kw_only=True)
class Gradual(Ranked):
    """A share of each that grows along AGP's ramp."""

    initial_sparsity: float
    final_sparsity: float

    def schedule(self, window: Window) -> Schedule:
        """From the first epoch to the last."""
        return window.gradual(self.initial_sparsity, self.final_sparsity)


@dataclass(frozen=True, kw_only=True)
class ByNorm(Ranked):
    """Groups of any kind by the norm of their weights."""

    group_types: ClassVar[tuple[str, ...]] = ("3D", "Filters", "Channels", "Rows", "2D", "Blocks")


@dataclass(frozen=True, kw_only=True)
class ByChance(Ranked):
    """Filters by numbers drawn from a seed and the tensor's name."""

    seed: int = 0

    @property
    def ranking(self) -> str:
        """Random scores."""
        return f"random(seed={self.seed})"


@dataclass(frozen=True, kw_only=True)
class ByCoin(ByChance):
    """Each filter by a coin of its own."""

    @property
    def allocation(self) -> Allocator:
        """As many as coins say."""
        return Bernoulli(self.seed)


class L1RankedStructureParameterPruner(Level, ByNorm):
    """By mean |w|."""

    criterion = "l1"


class L1RankedStructureParameterPruner_AGP(Gradual, ByNorm):
    """By mean |w|, gradually."""

    criterion = "l1"


class L2RankedStructureParameterPruner(Level, ByNorm):
    """By root mean square."""

    criterion = "l2"


class L2RankedStructureParameterPruner_AGP(Gradual, ByNorm):
    """By root mean square, gradually."""

    criterion = "l2"


class ActivationAPoZRankedFilterPruner(Level):
    """Filters whose activations are most often zero go."""

    criterion = "apoz"


class ActivationAPoZRankedFilterPruner_AGP(Gradual):
    """Filters whose activations are most often zero go, gradually."""

    criterion = "apoz"


class ActivationMeanRankedFilterPruner(Level):
    """Filters whose mean activation is lowest go."""

    criterion = "mean_activation"


class ActivationMeanRankedFilterPruner_AGP(Gradual):
    """Filters whose mean activation is lowest go, gradually."""

    criterion = "mean_activation"


class GradientRankedFilterPruner(Level):
    """Filters whose squared Σ g·w is lowest go: the ones that the loss would miss least."""

    criterion = "taylor"


class GradientRankedFilterPruner_AGP(Gradual):
    """Filters whose squared Σ g·w is lowest go, gradually."""

    criterion = "taylor"


class RandomRankedFilterPruner(Level, ByChance):
    """Exactly so many filters, by chance."""


class RandomRankedFilterPruner_AGP(Gradual, ByChance):
    """Exactly so many filters, by chance, gradually."""


class BernoulliFilterPruner(Level, ByCoin):
    """Each filter with this probability; what is kept is not scaled up."""


class BernoulliFilterPruner_AGP(Gradual, ByCoin):
    """Each filter with a growing probability; what is kept is not scaled up."""


class FMReconstructionChannelPruner(Level):
    """The input channels of lowest mean |w| go, and least squares fits what is left to the layer's old outputs."""

    criterion = "l1"
    group_types = ("Channels",)
    solver = "lstsq"


@dataclass(frozen=True, kw_only=True)
class RandomLevelStructureParameterPruner(ByNorm):
    """By mean |w|, a share that is drawn anew at each epoch; what is pruned stays so: the largest yet is in force.

    sparsity_range: lowest and highest share.
    """

    criterion: ClassVar[str] = "l1"

    sparsity_range: Sequence[float]
    seed: int = 0

    def schedule(self, window: Window) -> Schedule:
        """The largest share drawn so far, at every epoch."""
        low, high = (check_ratio("sparsity_range", share) for share in self.sparsity_range)
        drawn = {time: Random(f"{self.seed}:{time}").uniform(low, high) for time in window.times}
        return window.listed(lambda now: max(share for time, share in drawn.items() if time <= now))
