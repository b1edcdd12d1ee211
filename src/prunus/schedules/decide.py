"""One pruning step of one policy: scores, counts, picked units, masks. Nothing here touches a weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prunus.allocation import Regrowing, ScoredTarget, allocator, levelled, measure_for, score_for
from prunus.criteria import criterion
from prunus.errors import TrainingError
from prunus.granularity import Target
from prunus.schedules.aim import Aim
from prunus.schedules.kinds import Schedule
from prunus.schedules.policy import Policy
from prunus.statistics import Statistics


@dataclass
class Course:
    """A policy under way.

    aim: what the policy's budget asks for, if it has one. fraction: the one reached, with a budget the progress.
    pruned: the pruned units per target, (U,) bool. measured: per target, what the allocator found at the first pruning.
    """

    name: str
    policy: Policy
    schedule: Schedule
    targets: Sequence[Target]
    aim: Aim | None = None
    fraction: float = 0.0
    pruned: dict[str, Tensor] = field(default_factory=dict)
    measured: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for target in self.targets:
            self.pruned.setdefault(target.name, torch.zeros(target.num_units, dtype=torch.bool))

    @property
    def regrows(self) -> bool:
        """Whether what is pruned may come back."""
        return isinstance(allocator(self.policy.allocation), Regrowing)

    def measure_(self, tensors: Mapping[str, Tensor]) -> None:
        """Note what the allocator goes by, unless that is done."""
        share = allocator(self.policy.allocation)
        for target in self.targets:
            if target.name not in self.measured:
                self.measured[target.name] = measure_for(share, target, tensors)

    @property
    def num_pruned(self) -> int:
        """Pruned units of all targets."""
        return sum(int(units.sum()) for units in self.pruned.values())

    @property
    def num_units(self) -> int:
        """Units of all targets."""
        return sum(units.numel() for units in self.pruned.values())


@torch.no_grad()
def choose(
    course: Course,
    fraction: float,
    tensors: Mapping[str, Tensor],
    equal: Sequence[Sequence[str]] = (),
    statistics: Statistics | None = None,
    others: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the units to prune per target at a fraction, (U,) bool; what is pruned stays so unless it regrows.

    course: has measured what its allocator goes by. equal: sets of groups that must lose equally many units
    (`Graph.equal`). statistics: what the criterion needs. others: group -> (size,) bool, what other policies have
    pruned, with which a budget counts: in a group of both it is this one's, too.
    Raises TrainingError, naming the target, where weights are nan.
    """
    policy = course.policy
    rank, share = criterion(policy.criterion), allocator(policy.allocation)
    pruned, scored = dict(course.pruned), {}
    if course.aim is not None:
        shared = {t.name: (others or {}).get(t.group or "", pruned[t.name]) for t in course.targets}
        pruned |= {name: pruned[name] | units for name, units in shared.items()}
    for target in course.targets:
        scores = _checked(target, score_for(share, target, tensors, rank, statistics))
        before = pruned[target.name]
        ranked = scores if course.regrows else _with_pruned_lowest(scores, before)
        measured = course.measured.get(target.name, {})
        scored[target.name] = ScoredTarget.of(
            target,
            ranked,
            round_to=policy.step,
            max_ratio=policy.max_ratio,
            pruned=before,
            measured=measured,
        )
    progress = fraction / (course.schedule.final or 1.0)
    due = progress if share.uses_progress else fraction
    if isinstance(share, Regrowing):
        return share.chosen(scored, due)
    counts: Mapping[str, int]
    if course.aim is None:
        counts = levelled(share.counts(scored, due), equal)
    else:
        gone = {name: int(units.sum()) for name, units in pruned.items()}
        own = {target.group for target in course.targets}
        left = {name: int((~units).sum()) for name, units in (others or {}).items() if name not in own}

        def at(amount: float) -> dict[str, int]:
            wished = levelled(share.counts(scored, amount), equal)
            return {name: max(count, gone[name]) for name, count in wished.items()}

        counts = course.aim.counts(at, progress, left, scored)
    return {t.name: _pick(t, scored[t.name].scores, counts[t.name], pruned[t.name]) for t in course.targets}


def masks_of(course: Course, pruned: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the keep mask of every tensor that loses units; integer buffers are positions and stay."""
    masks: dict[str, Tensor] = {}
    for target in course.targets:
        units = pruned[target.name]
        if not bool(units.any()):
            continue
        for part in target.parts:
            if tensors[part.param].is_floating_point():
                mask = part.units.scatter(units)
                masks[part.param] = masks[part.param] & mask if part.param in masks else mask
    return masks


def _checked(target: Target, scores: Tensor) -> Tensor:
    if bool(scores.isnan().any()):
        raise TrainingError(f"{target.name} holds nan weights, which cannot be ranked; lower the learning rate")
    return scores


def _with_pruned_lowest(scores: Tensor, pruned: Tensor) -> Tensor:
    """Put pruned units strictly below all others.

    By a little: -inf would spoil the mean by which scores of several targets are made comparable. That they count in it
    spares a layer that has lost many; with the mean that they had when they went, single weights pruned by one ranking
    over many steps emptied whole layers.
    """
    kept = scores[~pruned]
    if kept.numel() in (0, scores.numel()):
        return scores
    low, high = kept.min(), kept.max()
    below = 1e-6 * torch.maximum(high - low, high.abs()).clamp(min=1e-30)
    return torch.where(pruned, low.clamp(max=0) - below, scores)


def _pick(target: Target, scores: Tensor, count: int, before: Tensor) -> Tensor:
    return before | target.scored[0].units.pick(scores, count)
