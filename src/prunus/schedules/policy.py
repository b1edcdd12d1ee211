"""What a policy is: targets, granularity, criterion, allocation and schedule, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from prunus.allocation import (
    Allocator,
    Budget,
    Regrowing,
    RoundTo,
    allocator,
    check_quantity,
    num_kept,
    parse_budget,
)
from prunus.criteria import Criterion, criterion
from prunus.errors import InputError, NameNotFound, naming
from prunus.granularity import COUPLED, FIXED, NM, Depth, Granularity, TargetSpec, check_targets, granularity
from prunus.granularity.checks import check_size
from prunus.schedules.kinds import OneShot, Schedule
from prunus.schedules.reading import schedule
from prunus.solvers import Solver, solver


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What is pruned together, by which criterion, how much from each, and when.

    granularity: `element`, `filter`, `2:4`, …, or an object. schedule: a mapping such as
        `{kind: agp, final: 0.5, end: 3ep}`, or an object.
    target: a budget such as `macs=0.5` or `latency=0.6@onnxruntime`, in the place of the schedule's final fraction: as
        the schedule proceeds, so much is pruned as leads there, and its last step meets the budget; see `prunus.plan`.
        Filters and channels count with what other policies have pruned by then, single weights by themselves.
    targets: a name pattern, a list of them, or a mapping with kind, type, name, exclude; `*` is every weight.
    criterion: `l1`, `l2`, … allocation: `uniform`, `global`, `{per_layer: {…}}`, `{threshold: {…}}`,
        `{sensitivity: {…}}`, `{splicing: {…}}`.
    solver: mends the weights that are left after every pruning: `lstsq`, `admm`, `sparsegpt`, …; see
        `prunus.solvers`. round_to: filters and channels are kept in multiples of this; `auto` takes the steps of
        runtimes' convolutions. By default `auto` for a latency, else 1. max_ratio: the largest share of a target that
        may go.
    name: shown in the log, and the masks' source; the granularity by default.
    Raises InputError or NameNotFound that begin with the field's name.
    """

    granularity: str | Granularity
    schedule: Mapping[str, Any] | Schedule
    targets: TargetSpec = "*"
    criterion: str | Criterion = "l1"
    allocation: str | Mapping[str, Any] | Allocator = "uniform"
    solver: str | Solver | None = None
    round_to: RoundTo | None = None
    max_ratio: float = 1.0
    target: str | Mapping[str, float | str] | Budget | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        with naming("granularity"):
            kind = granularity(self.granularity)
            _check_gradual(kind)
        with naming("targets"):
            check_targets(self.targets, kind)
        with naming("criterion"):
            criterion(self.criterion)
        with naming("allocation"):
            share = allocator(self.allocation)
        if self.solver is not None:
            with naming("solver"):
                solver(self.solver)
        when = schedule(self.schedule)
        if self.round_to is not None:
            _check_round_to(self.round_to, kind)
        num_kept(self.max_ratio, 1)
        if self.name is not None and (not isinstance(self.name, str) or not self.name):
            raise InputError(f"name is {self.name!r}; a text is wanted")
        if isinstance(share, Regrowing):
            _check_regrowing(share, kind, self.solver)
        if self.target is not None:
            with naming("target"):
                _check_target(parse_budget(self.target), kind, share, when)
        elif isinstance(kind, FIXED):
            _check_fixed(kind, when)
        elif when.final is None and not share.uses_progress:
            raise InputError(
                f"schedule.final is missing; allocation {share.name} needs a fraction such as 0.5, or the policy a "
                "target such as macs=0.5"
            )

    @property
    def budget(self) -> Budget | None:
        """What the target says."""
        return None if self.target is None else parse_budget(self.target)

    @property
    def step(self) -> RoundTo:
        """What kept counts are multiples of."""
        if self.round_to is not None:
            return self.round_to
        return "auto" if self.budget is not None and self.budget.quantity == "latency" else 1


def policy(spec: Mapping[str, Any] | Policy) -> Policy:
    """Read a policy from a mapping, as YAML gives it.

    Raises NameNotFound for an unknown key, InputError for a missing or wrong one.
    """
    if isinstance(spec, Policy):
        return spec
    if not isinstance(spec, Mapping):
        raise InputError(f"policy is {spec!r}; a mapping with granularity and schedule is wanted")
    known = [field.name for field in fields(Policy)]
    for key in spec:
        if key not in known:
            raise NameNotFound.of("key of a policy", str(key), known)
    for key in ("granularity", "schedule"):
        if key not in spec:
            raise InputError(f"{key} is missing; a policy needs granularity and schedule")
    return Policy(**spec)


def _check_gradual(kind: Granularity) -> None:
    if isinstance(kind, Depth):
        raise InputError(
            "layer leaves out whole residual blocks, which no mask of weights does in every model; leave them out "
            "before training, with `prunus.prune(model, inputs, granularity='layer', …)`, and let the policies prune "
            "what it returns (in a recipe: what the function that `model` names returns)"
        )


def _check_round_to(round_to: Any, kind: Granularity) -> None:
    if isinstance(round_to, str) and round_to != "auto":
        raise InputError(f"round_to is {round_to!r}; a whole number or auto is wanted")
    if round_to != "auto":
        check_size("round_to", round_to)
    if round_to != 1 and kind.name not in COUPLED:
        raise InputError(f"round_to is {round_to}, but {kind.name} is not rounded; only filter and channel are")


def _check_fixed(kind: Granularity, when: Schedule) -> None:
    if not isinstance(when, OneShot):
        raise InputError(f"schedule: {kind.name} is whole or not at all, never gradual; use kind: one_shot")
    pruned = 1 - kind.n / kind.m if isinstance(kind, NM) else None
    if when.final is not None and (pruned is None or abs(when.final - pruned) > 1e-9):
        share = "a share of its own" if pruned is None else f"{pruned:g}"
        raise InputError(f"schedule.final is {when.final}, but {kind.name} prunes {share}; leave final out")


def _check_target(budget: Budget, kind: Granularity, share: Allocator, when: Schedule) -> None:
    if isinstance(kind, FIXED):
        raise InputError(f"{kind.name} itself says how much goes, so it meets no {budget}; leave target out")
    if isinstance(share, Regrowing):
        raise InputError(
            f"allocation {share.name} itself says how much goes, so it meets no {budget}; leave target out"
        )
    if when.final is not None:
        raise InputError(
            f"{budget} says how much goes, and so does the schedule, which ends at {when.final:g}; give one of them"
        )
    check_quantity(budget, kind)


def _check_regrowing(share: Allocator, kind: Granularity, mends: object) -> None:
    if kind.name in COUPLED or isinstance(kind, FIXED):
        raise InputError(
            f"allocation: {share.name} brings pruned weights back, and {kind.name} has a rule of its own for what goes "
            "together; use element, kernel, block or vector"
        )
    if mends is not None:
        raise InputError(f"solver: {mends} mends what {share.name} may bring back; leave it out")
