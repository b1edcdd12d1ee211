"""The face of the search: one call, any method, any budget."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.allocation import Budget, RoundTo, parse_budget
from prunus.allocation.rulers import ruler_of
from prunus.axes import Graph, trace, unwrapped
from prunus.criteria import Criterion
from prunus.criteria import criterion as read_criterion
from prunus.errors import InputError, NameNotFound
from prunus.executors import Executor, find_executor
from prunus.granularity import Granularity, TargetSpec
from prunus.granularity import granularity as read_granularity
from prunus.plans import Plan
from prunus.quality import Mode, sign_of
from prunus.runtimes import Check
from prunus.search.amc import AMC
from prunus.search.environment import Adaptation, Evaluate, Judge, Train
from prunus.search.meter import Meter, Ruler
from prunus.search.netadapt import NetAdapt
from prunus.search.problem import Book, Method, Problem, Progress
from prunus.search.remembered import Remembered
from prunus.search.result import SearchResult
from prunus.search.sampled import Bayes, Evolve, load_optuna
from prunus.search.space import Space, find_space
from prunus.search.timing import Timing, is_close
from prunus.search.trials import Trial, TrialStore
from prunus.sensitivity.store import fingerprint
from prunus.solvers import Solver
from prunus.solvers import solver as read_solver
from prunus.statistics import Calibration, Loss, calibration
from prunus.training import random_state

METHODS: dict[str, type[AMC] | type[NetAdapt] | type[Evolve] | type[Bayes]] = {
    "amc": AMC,
    "netadapt": NetAdapt,
    "evolve": Evolve,
    "bayes": Bayes,
}


def search(
    model: nn.Module,
    args: Any,
    evaluate: Evaluate,
    *,
    kwargs: Mapping[str, Any] | None = None,
    method: str | Method = "amc",
    target: str | Mapping[str, float] | Budget,
    trials: int | None = None,
    seed: int = 0,
    mode: Mode = "max",
    granularity: str | Granularity = "filter",
    criterion: str | Criterion = "l2",
    targets: TargetSpec = "*",
    protect: TargetSpec = (),
    round_to: RoundTo | None = None,
    max_ratio: float | None = None,
    store: str | os.PathLike[str] | None = None,
    train: Train | None = None,
    solver: str | Solver | None = None,
    data: Any = None,
    loss: Loss | None = None,
    workers: int = 1,
    executor: str | Executor | None = None,
    ruler: Ruler | None = None,
    progress: Progress | None = None,
) -> SearchResult:
    """Find how much each coupled group, or each weight, should lose, so that the model meets a budget at its best.

    args, kwargs: example inputs, as for `prunus.trace`. The model is the same afterwards, bit for bit.
    evaluate: takes a model, returns a number or {metric: number}, the first metric being the judged one, on
        *validation* data; it puts the model into eval mode itself. mode: whether more of the metric is better.
    method: `amc`, `netadapt`, `evolve`, `bayes`, or an object of theirs with other settings, such as `AMC(warmup=50)`.
    target: the budget, such as `macs=0.5`, `sparsity=0.9` or `latency=0.6@onnxruntime`; a latency is looked up in the
        device's table, which is measured first where it is not known, and fitted to whole models near the budget; the
        best candidates are then measured as a whole, until one keeps to the budget; where that one leaves time unused,
        a milder one made of it is judged as well.
    trials: candidates, for methods that are told how many.
    granularity, criterion, targets, protect, round_to: as in `prunus.plan`. max_ratio: the largest share of a target
        that may go; 0.8 of coupled groups and 0.98 of single weights by default.
    store: a JSON lines file of every candidate, with the method's state beside it; a later call with the same model and
        settings goes on where an earlier one was killed, and comes to the same result. One with more trials adds them.
    train: trains a candidate in place for a moment, for netadapt; without it candidates are judged as they are pruned.
        workers, executor: how many candidates are trained side by side; see `prunus.executors`.
    solver, data: mend every candidate before it is judged, such as `lstsq`, on these batches; not with train.
    loss: for criteria that observe the model. ruler: prices counts instead of what the budget says, for a cost of your
        own. progress: called with (done, total, note).
    Raises InputError for a budget out of reach or settings that do not go together, NameNotFound for unknown names,
    TrainingError where evaluate or train fail, FileError for a store of another search.
    """
    chosen, budget = find_method(method, trials), parse_budget(target)
    kind, rank = read_granularity(granularity), read_criterion(criterion)
    sign_of(mode)
    seen = calibration(data, loss)
    _check_help(chosen, kind, train, solver, seen)
    if workers != 1 and train is None:
        raise InputError(
            f"workers train netadapt's candidates side by side; those of {chosen.name} are judged one after the other "
            "here, so leave workers out, or give train="
        )
    with torch.no_grad():
        graph = trace(unwrapped(model), args, kwargs)
    step: RoundTo = round_to if round_to is not None else "auto" if budget.quantity == "latency" else 1
    space = find_space(
        graph, kind, rank, targets=targets, protect=protect, round_to=step, max_ratio=max_ratio, seen=seen
    )
    timing = Timing.of(space, budget, _beside(store, "checks")) if ruler is None else None
    if timing is not None:
        timing.fit(budget, seed)
        price = timing.ruler
    else:
        price = ruler_of(graph, budget, kind, space.targets, space.scored) if ruler is None else ruler
    if store is not None and (budget.quantity == "latency" or ruler is not None):
        price = Remembered(price, _beside(store, "prices"))
    meter = Meter(budget, space.knobs, price)
    meter.check()
    judge = Judge(space, model, evaluate, seed, None if solver is None else read_solver(solver), seen)
    hands = find_executor(workers, executor)
    bench = None if train is None else Adaptation(space, model, evaluate, train, seed, hands, seen)
    problem = Problem(meter, judge, mode, bench, None if timing is None else timing.excess)
    mark = _mark(model, chosen, budget, seed, mode, space, train, solver)
    with random_state():
        reward = partial(chosen.reward_of, problem) if isinstance(chosen, AMC) else None
        book = Book(problem, TrialStore(store, mark), progress, reward)
        chosen.run(problem, book, seed)
        return _result(book, space, chosen, budget, mode, timing)


def _beside(store: str | os.PathLike[str] | None, suffix: str) -> Path | None:
    return None if store is None else Path(f"{os.fspath(store)}.{suffix}")


def find_method(method: str | Method, trials: int | None = None) -> Method:
    """Return a method by its name, with so many trials; raises NameNotFound, or InputError where it cannot run here."""
    if isinstance(method, str):
        if method not in METHODS:
            raise NameNotFound.of("search method", method, METHODS)
        method = METHODS[method]()
    if isinstance(method, type) or not isinstance(method, Method):
        raise InputError(
            f"method is {method!r}; one of {', '.join(METHODS)}, or an object with name and run, is wanted"
        )
    if isinstance(method, (Evolve, Bayes)):
        load_optuna()
    if trials is None:
        return method
    if isinstance(method, (AMC, Evolve, Bayes)):
        return replace(method, trials=trials)
    raise InputError(f"trials={trials} says nothing to {method.name}: its step and decay decide how many there are")


def _check_help(
    method: Method, kind: Granularity, train: Train | None, solver: str | Solver | None, seen: Calibration | None
) -> None:
    """Raise InputError where candidates would be helped in ways that do not go together."""
    if train is not None and not isinstance(method, NetAdapt):
        raise InputError(f"{method.name} judges candidates as they are pruned; train= is netadapt's")
    if train is not None and kind.name not in ("filter", "channel"):
        raise InputError(f"train= needs candidates that are thinned, of granularity filter or channel, not {kind.name}")
    if train is not None and solver is not None:
        raise InputError("candidates are either trained or mended; give train= or solver=, not both")
    if solver is not None and seen is None:
        raise InputError("a solver mends by what layers read; give data=, the batches they are shown")


def _mark(
    model: nn.Module,
    method: Method,
    budget: Budget,
    seed: int,
    mode: str,
    space: Space,
    train: Train | None,
    solver: str | Solver | None,
) -> str:
    knobs = repr([(knob.names, knob.size, knob.top, len(knob.steps)) for knob in space.knobs])
    helped = ("trained" if train else "", str(solver if solver is None or isinstance(solver, str) else solver.name))
    settings = repr(replace(method, trials=1) if isinstance(method, (AMC, Evolve, Bayes)) else method)
    words = (settings, str(budget), str(seed), mode, space.kind.name, space.rank.name, knobs, *helped)
    return fingerprint(unwrapped(model), *words)


def _result(
    book: Book, space: Space, method: Method, budget: Budget, mode: Mode, timing: Timing | None
) -> SearchResult:
    maker = _Maker(space, method.name)
    trials = tuple(replace(trial, maker=maker) for trial in book.store.trials)
    names = (method.name, budget, mode, space.kind.name, space.rank.name)
    result = SearchResult(*names, trials, _sizes(space), kept=book.kept, weights=book.weights)
    if timing is not None:
        result = _measured(result, book, timing)
    if space.is_coupled and any(result.best.counts.values()):
        proof, _ = result.best.plan().prove(unwrapped(space.graph.model))
        return replace(result, proof=proof)
    return result


def _measured(result: SearchResult, book: Book, timing: Timing) -> SearchResult:
    """Measure whole candidates, the best first; where the best leaves time unused, judge a milder one made of it."""
    ranked = result.ranked if result.kept is None else (result.best,)
    checks = timing.checked((trial.number, trial.counts) for trial in ranked if not trial.is_beside)
    result = _checked(result, checks, timing)
    best = result.best
    if result.kept is None and best.is_met:
        meter = book.problem.meter
        trial = book.beside(timing.milder(meter, tuple(best.counts[knob.names[0]] for knob in meter.knobs)), best)
        if trial.number == len(result.trials):
            result = replace(result, trials=(*result.trials, replace(trial, maker=best.maker)))
        others = (trial, *(other for other in result.trials if other.is_beside))
        checks = {**checks, **{other.number: timing.check(other.counts) for other in others}}
    return _checked(result, checks, timing)


def _checked(result: SearchResult, checks: Mapping[int, Check], timing: Timing) -> SearchResult:
    """Let what was measured decide which of these candidates keep to the budget."""
    met = {number: is_close(check, timing.asked) for number, check in checks.items()}
    trials = tuple(replace(trial, is_met=met.get(trial.number, trial.is_met)) for trial in result.trials)
    return replace(result, trials=trials, checks=checks)


def _sizes(space: Space) -> dict[str, int]:
    return {target.name: target.num_units for target in space.targets}


@dataclass(frozen=True)
class _Maker:
    """Makes the plan of a trial again."""

    space: Space
    method: str

    def __call__(self, trial: Trial, graph: Graph | None) -> Plan:
        if trial.units is None:
            units = self.space.units(trial.counts)
        else:
            units = {t.name: torch.zeros(t.num_units, dtype=torch.bool) for t in self.space.targets}
            for name, positions in trial.units.items():
                units[name][list(positions)] = True
        return self.space.plan(units, graph, {"search": self.method, "trial": trial.number})
