"""Prune one target at a time, once, from the trained model; evaluate; restore bit for bit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from prunus.allocation import ScoredTarget, check_ratio, num_pruned
from prunus.axes import unwrapped
from prunus.criteria import Criterion, collect_for, score_target
from prunus.criteria import criterion as read_criterion
from prunus.errors import InputError, TrainingError
from prunus.granularity import FIXED, NM, Granularity, Target, TargetSpec, find_targets
from prunus.granularity import granularity as read_granularity
from prunus.granularity.targets import GraphLike
from prunus.plans import named_state
from prunus.sensitivity.costs import target_costs
from prunus.sensitivity.curves import Curves
from prunus.sensitivity.store import CellStore, Metrics, fingerprint
from prunus.statistics import Loss, Statistics, calibration

Evaluate = Callable[[nn.Module], "float | Mapping[str, float]"]
Progress = Callable[[int, int, str], None]

_DENSE = ""  # the target of the cell that holds the unpruned model's metrics


def perform_sensitivity_analysis(
    model: nn.Module,
    evaluate: Evaluate,
    *,
    granularity: str | Granularity = "element",
    levels: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    criterion: str | Criterion = "l1",
    targets: TargetSpec = "*",
    graph: GraphLike | None = None,
    store: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    data: Any = None,
    loss: Loss | None = None,
) -> Curves:
    """Measure how much each target suffers when it alone is pruned, to each level, without fine-tuning.

    evaluate: takes the model, returns a number or {metric: number}, the first metric being the judged one;
        it reads
        *validation* data and puts the model into eval mode itself.
    levels: sparsities in [0, 1); with n:m, which has but one, they are replaced by it.
    graph: with it, `filter` and `channel` prune whole coupled groups, as thinning would; without, single
        weights.
    store: a JSON lines file; every cell is on disk before the next begins, and a later call with the same
        model, granularity and criterion measures only what is missing.
    data, loss: for criteria that observe the model; see `prunus.statistics.Calibration`.
    progress: called after each cell with (done, total, "target level").
    Returns the curves. The model is the same afterwards, bit for bit, also when `evaluate` raises.
    Raises TrainingError when `evaluate` fails or returns no number, FileError for a store of something else.
    Source: Han et al. 2015 (arXiv:1506.02626), Li et al. 2017 (arXiv:1608.08710), section 3.2.
    """
    kind, judge = read_granularity(granularity), read_criterion(criterion)
    plain = unwrapped(model)
    chosen = find_targets(plain, kind, targets, graph)
    steps = _levels(kind, levels, chosen)
    cells = CellStore(store, fingerprint(plain, kind.name, judge.name, "coupled" if graph is not None else "single"))
    seen = collect_for(plain, judge, chosen, calibration(data, loss))
    jobs = [(None, 0.0), *((target, level) for target in chosen for level in steps)]
    for done, (target, level) in enumerate(jobs, start=1):
        name = _DENSE if target is None else target.name
        if (name, level) not in cells.cells:
            cells.add(name, level, _measure(model, evaluate, target, level, judge, seen))
        if progress is not None:
            progress(done, len(jobs), f"{name} {level:g}" if target else "dense")
    curves = _curves(cells, kind, judge, steps, chosen)
    return replace(curves, costs=target_costs(plain, chosen, graph))


def _levels(kind: Granularity, levels: Sequence[float], chosen: Sequence[Target]) -> tuple[float, ...]:
    """Return the levels to measure; where the granularity says how much, the one that it comes to over all targets."""
    if isinstance(kind, NM):
        return (1 - kind.n / kind.m,)
    if isinstance(kind, FIXED):
        units = [target.parts[0].units for target in chosen]
        return (sum(each.fixed or 0 for each in units) / max(1, sum(each.num_units for each in units)),)
    checked = tuple(sorted({check_ratio("level", level) for level in levels}))
    if not checked:
        raise InputError("levels are empty; name at least one sparsity, such as 0.5")
    return checked


def _measure(
    model: nn.Module, evaluate: Evaluate, target: Target | None, level: float, judge: Criterion, seen: Statistics
) -> Metrics:
    """Evaluate the model with one target pruned, or as it is."""
    with _restored(model, target):
        if target is not None:
            _prune_(named_state(unwrapped(model)), target, level, judge, seen)
        where = f"at {level:g} of {target.name}" if target else "on the dense model"
        try:
            return _metrics(evaluate(model))
        except TrainingError as error:
            raise TrainingError(f"evaluate {where}: {error}") from None
        except Exception as error:
            raise TrainingError(f"evaluate failed {where}: {type(error).__name__}: {error}") from error


def _prune_(tensors: Mapping[str, Tensor], target: Target, level: float, judge: Criterion, seen: Statistics) -> None:
    scores = score_target(target, tensors, judge, seen)
    units = target.parts[0].units
    scored = ScoredTarget.of(target, scores)
    pruned = units.pick(scores, scored.bounded(num_pruned(level, target.num_units)))
    with torch.no_grad():
        for part in target.parts:
            tensor = tensors[part.param]
            tensor.masked_fill_(~part.units.scatter(pruned.to(tensor.device)), 0)


@contextmanager
def _restored(model: nn.Module, target: Target | None) -> Iterator[None]:
    """Put back what the pruning and the evaluation may change: the target's tensors, all buffers, the modes."""
    tensors = named_state(unwrapped(model))
    touched = {part.param for part in target.parts} if target else set()
    touched |= {name for name, _ in unwrapped(model).named_buffers()}
    saved = {name: tensors[name].detach().clone() for name in touched}
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in saved.items():
                tensors[name].copy_(value)
        for module, mode in modes:
            module.training = mode


def _metrics(result: object) -> Metrics:
    named: Mapping[Any, Any] = result if isinstance(result, Mapping) else {"metric": result}
    try:
        metrics = {str(name): float(_plain(value)) for name, value in named.items()}
    except (TypeError, ValueError):
        raise TrainingError(f"returned {result!r}; a number or a mapping of numbers is wanted") from None
    if not metrics:
        raise TrainingError("returned an empty mapping; at least one metric is wanted")
    return metrics


def _plain(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _curves(
    cells: CellStore, kind: Granularity, judge: Criterion, levels: tuple[float, ...], targets: Sequence[Target]
) -> Curves:
    dense = cells.cells[_DENSE, 0.0]
    try:
        values = {
            metric: {t.name: tuple(cells.cells[t.name, level][metric] for level in levels) for t in targets}
            for metric in dense
        }
    except KeyError as error:
        raise TrainingError(f"evaluate returned the metric {error} for the dense model only") from None
    return Curves(next(iter(dense)), kind.name, judge.name, levels, dense, values)
