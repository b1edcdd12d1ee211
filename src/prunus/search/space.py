"""What is searched: how many units each coupled group, or each weight, loses."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.allocation import RoundTo, ScoredTarget, check_ratio, num_pruned
from prunus.axes import Graph
from prunus.criteria import Criterion, collect_for, score_target
from prunus.errors import InputError
from prunus.granularity import COUPLED, FIXED, Depth, Granularity, Target, TargetSpec, find_targets, with_protection
from prunus.plans import Plan, named_state
from prunus.search.features import NUM_FEATURES, features_of
from prunus.statistics import Calibration

Choice = tuple[int, ...]
"""Units that go, one number per knob."""

Counts = Mapping[str, int]
Units = Mapping[str, Tensor]


@dataclass(frozen=True)
class Knob:
    """One number that a search chooses: how many units its targets lose.

    names: targets that must lose equally many; mostly one. size: units of each.
    steps: the numbers of units that may go, ascending, 0 first: floors, rounding and the ceiling are met.
    features: n, c, h, w, stride, k of the layer that makes the units first; see `prunus.search.features`.
    """

    names: tuple[str, ...]
    size: int
    steps: Sequence[int]
    features: tuple[float, ...] = (0.0,) * NUM_FEATURES

    def at(self, ratio: float) -> int:
        """Return the largest step that a ratio in [0, 1) allows."""
        return self.steps[self.place(num_pruned(ratio, self.size))]

    def place(self, count: int) -> int:
        """Return the index of the largest step that is at most `count`."""
        return bisect_right(self.steps, count) - 1

    @property
    def top(self) -> int:
        """The most units that may go."""
        return self.steps[-1]


def expanded(knobs: Sequence[Knob], choice: Sequence[int]) -> dict[str, int]:
    """Return units that go by target."""
    return {name: count for knob, count in zip(knobs, choice, strict=True) for name in knob.names}


@dataclass(frozen=True, eq=False)
class Space:
    """The knobs of a traced model, and which units go when a knob is turned.

    scored: target -> the scores of its units, low goes first, and what its count must respect.
    """

    graph: Graph
    kind: Granularity
    rank: Criterion
    targets: tuple[Target, ...]
    scored: Mapping[str, ScoredTarget]
    knobs: tuple[Knob, ...]

    @property
    def is_coupled(self) -> bool:
        """Whether removing units makes the model smaller."""
        return self.kind.name in COUPLED

    def units(self, counts: Counts) -> dict[str, Tensor]:
        """Return target -> (U,) bool, True where a unit goes."""
        return {t.name: t.parts[0].units.pick(self.scored[t.name].scores, counts.get(t.name, 0)) for t in self.targets}

    def plan(self, units: Units, graph: Graph | None = None, provenance: Mapping[str, Any] | None = None) -> Plan:
        """Make the plan of given units, on this graph or on another trace of the same model."""
        words = {"granularity": self.kind.name, "criterion": self.rank.name, **(provenance or {})}
        graph = self.graph if graph is None else graph
        if self.is_coupled:
            return Plan.from_pruned(graph, units, provenance=words)
        by_name = {target.name: target for target in self.targets}
        masks = {name: by_name[name].parts[0].units.scatter(pruned) for name, pruned in units.items()}
        return Plan.from_pruned(graph, {}, masks, words)


def find_space(
    graph: Graph,
    kind: Granularity,
    rank: Criterion,
    *,
    targets: TargetSpec = "*",
    protect: TargetSpec = (),
    round_to: RoundTo = 1,
    max_ratio: float | None = None,
    seen: Calibration | None = None,
) -> Space:
    """Resolve targets, score their units, and make one knob per set of targets that go together.

    max_ratio: the largest share of a target that may go: 0.8 of coupled groups and 0.98 of single weights by default.
    Raises InputError for granularities that leave nothing to choose, and where nothing can be chosen.
    """
    if isinstance(kind, (Depth, *FIXED)):
        raise InputError(f"granularity {kind.name} leaves no ratios to search; choose filter, channel, element, …")
    share = check_ratio("max_ratio", (0.8 if kind.name in COUPLED else 0.98) if max_ratio is None else max_ratio)
    found = find_targets(graph.model, kind, with_protection(targets, protect), graph)
    scores = scores_of(graph.model, found, rank, seen)
    scored = {t.name: ScoredTarget.of(t, scores[t.name], round_to=round_to) for t in found}
    knobs = tuple(_knobs(graph, found, scored, share))
    if not any(knob.top for knob in knobs):
        raise InputError(
            f"no target can lose a unit with max_ratio={share:g} and round_to={round_to}; raise or lower them"
        )
    return Space(graph, kind, rank, tuple(found), scored, tuple(knob for knob in knobs if knob.top))


@torch.no_grad()
def scores_of(
    model: nn.Module, targets: Sequence[Target], rank: Criterion, seen: Calibration | None
) -> dict[str, Tensor]:
    """Score the units of every target on the model's weights as they are now, on the CPU."""
    tensors, statistics = named_state(model), collect_for(model, rank, targets, seen)
    return {target.name: score_target(target, tensors, rank, statistics).cpu() for target in targets}


def _knobs(graph: Graph, found: Sequence[Target], scored: Mapping[str, ScoredTarget], most: float) -> list[Knob]:
    by_name = {target.name: target for target in found}
    sets = {name: names for names in graph.equal for name in names}
    layers = features_of(graph, found)
    knobs: dict[tuple[str, ...], Knob] = {}
    for target in found:
        names = sets.get(target.name, (target.name,))
        if names in knobs or any(name not in by_name for name in names):
            continue  # a set of which one member is protected stays whole
        steps = [_steps(scored[name], most) for name in names]
        common = steps[0] if len(steps) == 1 else tuple(sorted(set(steps[0]).intersection(*steps[1:])))
        knobs[names] = Knob(names, scored[names[0]].num_units, common, layers[target.name])
    return list(knobs.values())


def _steps(target: ScoredTarget, most: float) -> Sequence[int]:
    """List the numbers of units that may go; single weights, of which there may be millions, as a range."""
    last = int(most * target.num_units)
    if target.minimum == 0 and target.round_to == 1:
        return range(last + 1)
    bounded = {target.bounded(count) for count in range(last + 1)}
    return tuple(sorted(count for count in bounded if count <= last))
