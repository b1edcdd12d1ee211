"""From the recipe's words to the scheduler that runs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import nn

from prunus.allocation import Budget, parse_budget
from prunus.axes import Graph
from prunus.errors import NameNotFound
from prunus.granularity import unpermuted
from prunus.recipes.schema import Guard, Policy
from prunus.recipes.session import TRACED, Session
from prunus.schedules import AccuracyGuard, PruningScheduler, parse_settings, schedule
from prunus.statistics import Calibration
from prunus.training import random_state, reseed


def build_scheduler(
    session: Session,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    graph: Graph | None,
    dense: Mapping[str, float],
) -> PruningScheduler:
    """The scheduler of the recipe's policies, stop conditions and guard.

    dense: the dense model's validation metrics, which the guard compares with.
    """
    words = session.recipe.prune
    policies = [
        {**item.plain(), "granularity": unpermuted(item.granularity), **_target(item, graph)} for item in words.policies
    ]
    settings = parse_settings({"policies": policies, "stop": [of_batch(item, graph) for item in words.stop]})
    return PruningScheduler(
        model,
        optimizer,
        settings.policies,
        graph=graph,
        stop=settings.stop,
        guard=None if words.guard is None else _guard(words.guard, dense),
        fold_constants=words.fold_constants,
        steps_per_epoch=session.steps_per_epoch,
        data=calibration(session),
    )


def calibration(session: Session) -> Calibration:
    """Training batches for criteria and solvers, always the same ones, whatever was drawn before."""
    return Calibration(_SameBatches(session), session.parts.loss, session.recipe.prune.calibration)


class _SameBatches:
    """The training data from its start, in one order; the random state of the run goes on undisturbed."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __iter__(self) -> Iterator[Any]:
        train = self._session.parts.data.train
        with random_state(train):
            reseed(self._session.recipe.seed, "calibration", 0, train)
            batches = list(islice(train, self._session.recipe.prune.calibration))
        yield from batches


def permuting(policies: Sequence[Policy]) -> list[Policy]:
    """Return the policies that want channels put in order first: at most one, as the schema checks."""
    return [words for words in policies if unpermuted(words.granularity) != words.granularity]


def of_batch(words: str | Mapping[str, Any], graph: Graph | None) -> Budget:
    """Read a budget; MACs of one sample become a share of the dense model's, since the graph counts a batch."""
    budget = parse_budget(words)
    if budget.quantity != "macs" or budget.relative or graph is None:
        return budget
    return replace(budget, limit=budget.limit * TRACED / graph.size().macs, relative=True, asked=str(budget))


def _target(words: Policy, graph: Graph | None) -> dict[str, Budget]:
    return {} if words.target is None else {"target": of_batch(words.target, graph)}


def final_ratio(words: Policy) -> float:
    """The share that a policy prunes in the end, where its schedule says so.

    Where the allocation, n:m or a pattern fixes the amount instead, any number does.
    """
    final = schedule(words.schedule).final
    return 0.5 if final is None else final


def _guard(words: Guard, dense: Mapping[str, float]) -> AccuracyGuard:
    if words.metric not in dense:
        raise NameNotFound.of("prune.guard.metric", words.metric, dense)
    return AccuracyGuard(words.metric, words.max_drop, words.mode, reference=dense[words.metric])
