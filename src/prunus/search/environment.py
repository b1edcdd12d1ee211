"""Candidates made of a real model: pruned in place and put back, or thinned and trained for a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunus.axes import copied, unwrapped
from prunus.errors import PrunusError, TrainingError
from prunus.executors import Executor
from prunus.plans import Plan, named_state
from prunus.search.problem import Metrics, Outcome, read_metrics
from prunus.search.space import Counts, Space, scores_of
from prunus.solvers import Solver, mend_
from prunus.statistics import Calibration, restored
from prunus.training import random_state, reseed

Evaluate = Callable[[nn.Module], "float | Mapping[str, float]"]
Train = Callable[[nn.Module], Any]


@dataclass(frozen=True)
class Judge:
    """One-shot pruning: units are zeroed in place, the model is evaluated and put back bit for bit.

    The weights are held twice meanwhile, as `evaluate` may train them.
    solver, seen: mend what is left before the evaluation, on a copy.
    """

    space: Space
    model: nn.Module
    evaluate: Evaluate
    seed: int
    solver: Solver | None = None
    seen: Calibration | None = None

    def __call__(self, counts: Counts) -> Metrics:
        """Return the metrics of the model with so many units gone."""
        units = self.space.units(counts)
        where = f"with {sum(counts.values())} units pruned"
        if self.solver is None or self.seen is None or not any(counts.values()):
            with _pruned(self.model, self.space, units):
                return _judged(self.model, self.evaluate, self.seed, where)
        plan = self.space.plan(units)
        masked = plan.mask(self.model)
        mend_(masked, unwrapped(self.model), plan.keep_masks(), self.solver, self.seen)
        return _judged(masked, self.evaluate, self.seed, where)


@contextmanager
def _pruned(model: nn.Module, space: Space, units: Mapping[str, Tensor]) -> Iterator[None]:
    """Zero the units; put everything back."""
    tensors = named_state(unwrapped(model))
    masks = [(p.param, p.units.scatter(units[t.name])) for t in space.targets if units[t.name].any() for p in t.parts]
    with restored(model, [name for name, _ in unwrapped(model).named_parameters()]):
        with torch.no_grad():
            for name, keep in masks:
                tensors[name].masked_fill_(~keep.to(tensors[name].device), 0)
        yield


def _judged(model: nn.Module, evaluate: Evaluate, seed: int, where: str) -> Metrics:
    """Evaluate with the same random numbers for every candidate; errors of the user's function name the candidate."""
    with random_state():
        reseed(seed, "evaluate", 0)
        try:
            return read_metrics(evaluate(model))
        except PrunusError:
            raise
        except Exception as error:
            raise TrainingError(f"evaluate failed {where}: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Adaptation:
    """NetAdapt's bench: each candidate is thinned from the weights kept last, trained for a moment, and judged.

    Units that are gone stay gone; the next ones are chosen on the weights as trained.
    """

    space: Space
    model: nn.Module
    evaluate: Evaluate
    train: Train
    seed: int
    executor: Executor
    seen: Calibration | None = None

    def outcomes(self, before: Outcome | None, jobs: Sequence[tuple[int, Counts]]) -> Iterator[tuple[int, Outcome]]:
        """Yield (position, outcome) as they come; random numbers follow from the seed and the trial's number."""
        base = copied(unwrapped(self.model))
        gone: Mapping[str, tuple[int, ...]] = {}
        if before is not None:
            base.load_state_dict(dict(before.weights or {}))
            gone = before.units or {}
        scores = scores_of(base, self.space.targets, self.space.rank, self.seen)
        for name, positions in gone.items():
            scores[name][list(positions)] = -torch.inf
        plans = [self._plan(scores, counts) for _, counts in jobs]
        smalls = ((number, plan.apply(base, prove=False)) for (number, _), plan in zip(jobs, plans, strict=True))
        training = _Training(self.evaluate, self.train, self.seed)
        for position, (metrics, state) in self.executor.map(training, smalls):
            plan = plans[position]
            units = {name: _gone(len(scores[name]), kept) for name, kept in plan.kept.items()}
            yield position, Outcome(metrics, units, widened(state, plan, base.state_dict()))

    def _plan(self, scores: Mapping[str, Tensor], counts: Counts) -> Plan:
        units = {t.name: t.parts[0].units.pick(scores[t.name], counts.get(t.name, 0)) for t in self.space.targets}
        return self.space.plan(units)


@dataclass(frozen=True)
class _Training:
    """What a worker does with one candidate: train it, judge it, hand back its weights."""

    evaluate: Evaluate
    train: Train
    seed: int

    def __call__(self, item: tuple[int, nn.Module]) -> tuple[Metrics, dict[str, Tensor]]:
        number, small = item
        with random_state():
            reseed(self.seed, "netadapt", number)
            try:
                self.train(small)
            except PrunusError:
                raise
            except Exception as error:
                raise TrainingError(f"train failed on candidate {number}: {type(error).__name__}: {error}") from error
        metrics = _judged(small, self.evaluate, self.seed, f"on candidate {number}")
        return metrics, {name: value.detach().cpu().clone() for name, value in small.state_dict().items()}


def widened(state: Mapping[str, Tensor], plan: Plan, dense: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put the tensors of a thinned model back to where they were in the dense one; what was cut is 0."""
    edits, out = plan.surgery().edits, {}
    for name, value in dense.items():
        edit = edits.get(name)
        if edit is None:
            out[name] = state[name].to(value.device)
            continue
        out[name] = torch.zeros_like(value)
        index = np.ix_(*(edit.get(dim, np.arange(size)) for dim, size in enumerate(value.shape)))
        out[name][tuple(torch.from_numpy(positions) for positions in index)] = state[name].to(value.device)
    return out


def _gone(size: int, kept: Tensor) -> tuple[int, ...]:
    left = set(kept.tolist())
    return tuple(position for position in range(size) if position not in left)
