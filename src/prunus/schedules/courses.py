"""From policies to courses: targets found, times whole, everything checked before anything is pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunus.allocation import Regrowing, ScoredTarget, allocator, measure_for
from prunus.axes import Graph
from prunus.criteria import criterion, pieces_of
from prunus.errors import InputError, naming
from prunus.granularity import find_targets, granularity
from prunus.plans import named_state
from prunus.schedules.aim import Aim
from prunus.schedules.decide import Course
from prunus.schedules.observing import needs_data
from prunus.schedules.policy import Policy
from prunus.schedules.reading import schedule, with_whole_times
from prunus.schedules.threshold import MagnitudeParameterPruner
from prunus.statistics import Calibration


def courses_of(
    policies: Sequence[Policy | MagnitudeParameterPruner],
    model: nn.Module,
    graph: Graph | None,
    steps_per_epoch: int | None,
) -> list[Course]:
    """Resolve policies on a model; raises InputError for two of one name, NameNotFound where one matches nothing."""
    if not policies:
        raise InputError("there are no policies; give at least one")
    courses: dict[str, Course] = {}
    for given in policies:
        policy = given.policy() if isinstance(given, MagnitudeParameterPruner) else given
        if not isinstance(policy, Policy):
            raise InputError(f"{policy!r} is no policy; give prunus.Policy(granularity=…, schedule=…)")
        if policy.name in courses:
            raise InputError(f"two policies are named {policy.name!r}; choose another name for one of them")
        name = policy.name or _free_name(policy, courses)
        when = with_whole_times(schedule(policy.schedule), steps_per_epoch)
        budget, kind = policy.budget, granularity(policy.granularity)
        with naming(f"policy {name!r}"):
            targets = find_targets(model, policy.granularity, policy.targets, graph)
            aim = None if budget is None else Aim(budget, kind, model, graph)
        courses[name] = Course(name, policy, when, targets, aim)
    _check_aims(list(courses.values()), named_state(model))
    return list(courses.values())


def _check_aims(courses: Sequence[Course], tensors: Mapping[str, Tensor]) -> None:
    """Raise InputError now for a budget that cannot be met in the end."""
    if all(course.aim is None for course in courses):
        return
    scored = {course.name: _unscored(course, tensors) for course in courses}
    most = {course.name: _most(course, scored[course.name]) for course in courses}
    for course in courses:
        others = [(other, t) for other in courses if other is not course for t in other.targets if t.group is not None]
        left: dict[str, int] = {}
        for other, t in others:
            name, size = str(t.group), t.num_units - most[other.name][t.name]
            left[name] = min(size, left.get(name, size))
        if course.aim is not None:
            with naming(f"policy {course.name!r}"):
                course.aim.check(most[course.name], left, scored[course.name])


def _unscored(course: Course, tensors: Mapping[str, Tensor]) -> dict[str, ScoredTarget]:
    """Return the targets before anything is known of their scores; any will do."""
    policy, share, scored = course.policy, allocator(course.policy.allocation), {}
    limits: dict[str, Any] = {"round_to": policy.step, "max_ratio": policy.max_ratio}
    for target in course.targets:
        scores, measured = torch.arange(1.0, target.num_units + 1), measure_for(share, target, tensors)
        scored[target.name] = ScoredTarget.of(target, scores, measured=measured, **limits)
    return scored


def _most(course: Course, scored: Mapping[str, ScoredTarget]) -> dict[str, int]:
    """Return the most units that may go, per target, whatever the scores will be."""
    share = allocator(course.policy.allocation)
    if isinstance(share, Regrowing):
        return {name: target.bounded(target.num_units) for name, target in scored.items()}
    last = 1 - 1e-9 if course.aim is not None else 1.0 if share.uses_progress else course.schedule.final or 1.0
    return share.counts(scored, last)


def check_criteria(courses: Sequence[Course], tensors: Mapping[str, Tensor], calibration: Calibration | None) -> None:
    """Raise InputError now for what would otherwise be missing in the middle of training."""
    for course in courses:
        rank = criterion(course.policy.criterion)
        for target in course.targets:
            pieces_of(target, tensors, rank)
        observer = rank.name if needs_data(course) else course.policy.solver
        if calibration is None and observer is not None:
            raise InputError(
                f"policy {course.name!r}: {observer} observes the model on calibration data; give data=, and loss= "
                "where it reads gradients"
            )


def _free_name(policy: Policy, taken: Mapping[str, Course]) -> str:
    name = policy.granularity if isinstance(policy.granularity, str) else policy.granularity.name
    number = 1 + sum(course.policy.name is None and course.name.split("#")[0] == name for course in taken.values())
    return name if number == 1 else f"{name}#{number}"


def check_first_metric(courses: Sequence[Course], steps_per_epoch: int | None) -> None:
    """Raise InputError where something is pruned before the first metric, which then is no reference."""
    for course in courses:
        if course.schedule.unit == "epoch":
            early = course.schedule.fraction(0) > 0
        else:
            early = steps_per_epoch is None or course.schedule.fraction(steps_per_epoch) > 0
        if early:
            raise InputError(
                f"policy {course.name!r} may prune before the first metric is seen, so the guard has nothing to "
                "compare with; give guard.reference, the dense model's metric"
            )
