"""Eight ways to ratios for one budget; each returns a plan, and the weights that it is applied to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.search.task import Task
from torch import nn

import prunus
from prunus.allocation import Budget, RoundTo, parse_budget
from prunus.axes import copied
from prunus.plans import Plan
from prunus.search import AMC, Evolve, NetAdapt, SearchResult, search
from prunus.search.problem import Method

CRITERION = "l2"
EPISODES, CANDIDATES = 300, 200


@dataclass(frozen=True)
class Found:
    """A plan, the weights that it cuts, how many candidates were judged, and what the best one was judged."""

    plan: Plan
    weights: nn.Module
    candidates: int = 0
    judged: float | None = None


def _allocated(allocation: str, task: Task, target: str, store: Path) -> Found:
    made = prunus.plan(task.graph, target=target, criterion=CRITERION, allocation=allocation)
    return Found(made, task.model)


def _sensitivity(task: Task, target: str, store: Path) -> Found:
    """Fill the budget greedily by what the curves foresee; a latency is measured with whole models."""
    curves = prunus.perform_sensitivity_analysis(
        task.model, task.judge, granularity="filter", levels=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
        criterion=CRITERION, graph=task.graph, store=store,
    )  # fmt: skip
    budget = parse_budget(target)
    if budget.device is not None:
        curves = curves.timed(task.graph, budget.device)
    made = _cut(task, curves.ratios_for(budget, graph=task.graph), budget)
    return Found(made, task.model, candidates=len(curves.levels) * len(curves.table))


def _cut(task: Task, ratios: Mapping[str, float], budget: Budget) -> Plan:
    wanted = {name: ratio for name, ratio in ratios.items() if ratio * task.graph[name].size >= 0.5}
    step: RoundTo = "auto" if budget.quantity == "latency" else 1
    return prunus.plan(task.graph, ratio=0.5, criterion=CRITERION, allocation={"per_layer": wanted}, round_to=step)


def _searched(method: Method, task: Task, target: str, store: Path) -> Found:
    result = search(
        task.model, task.example, task.judge, method=method, target=target, seed=task.seed, criterion=CRITERION,
        store=store,
    )  # fmt: skip
    return _found(task, result, task.model)


def _netadapt(task: Task, target: str, store: Path) -> Found:
    result = search(
        task.model, task.example, task.judge, method=NetAdapt(), target=target, seed=task.seed, criterion=CRITERION,
        store=store, train=task.short_tune,
    )  # fmt: skip
    adapted = copied(task.model)
    adapted.load_state_dict(dict(result.weights or {}))
    return _found(task, result, adapted)


def _netadapt_ratios(task: Task, target: str, store: Path) -> Found:
    """NetAdapt's counts on the dense weights: what of its gain is the ratios'. Its search is read, not done again."""
    found = _netadapt(task, target, store.with_name(store.name.replace("-ratios", "")))
    size = {group.name: group.size for group in task.graph.groups}
    ratios = {name: 1 - left / size[name] for name, left in found.plan.sizes.items()}
    made = _cut(task, ratios, parse_budget("macs=1"))  # the very counts
    return Found(made, task.model, found.candidates)


def _found(task: Task, result: SearchResult, weights: nn.Module) -> Found:
    folder = Path(task.folder)
    result.plot(folder / f"{result.method}-{task.seed}.svg")
    result.plot_learning(folder / f"{result.method}-{task.seed}-learning.svg")
    return Found(result.plan(task.graph), weights, len(result.trials) - 1, result.best.metric)


WAYS: dict[str, Callable[[Task, str, Path], Found]] = {
    "uniform": partial(_allocated, "uniform"),
    "global": partial(_allocated, "global"),
    "lamp": partial(_allocated, "lamp"),
    "sensitivity": _sensitivity,
    "amc": partial(_searched, AMC(trials=EPISODES)),
    "evolve": partial(_searched, Evolve(trials=CANDIDATES)),
    "netadapt": _netadapt,
    "netadapt-ratios": _netadapt_ratios,
}
