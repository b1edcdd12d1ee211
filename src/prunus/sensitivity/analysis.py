"""Which target bears how much? Each is pruned alone, once, from the trained model, and the model evaluated."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from prunus.allocation import check_ratio
from prunus.axes import unwrapped
from prunus.criteria import Criterion, collect_for
from prunus.criteria import criterion as read_criterion
from prunus.errors import InputError, TrainingError
from prunus.executors import Executor, Here, find_executor
from prunus.granularity import FIXED, NM, Granularity, Target, TargetSpec, find_targets
from prunus.granularity import granularity as read_granularity
from prunus.granularity.targets import GraphLike
from prunus.sensitivity.cells import Cell, Cutter
from prunus.sensitivity.costs import target_costs
from prunus.sensitivity.curves import Curves
from prunus.sensitivity.engine import Engine
from prunus.sensitivity.naive import Evaluate
from prunus.sensitivity.passes import Found
from prunus.sensitivity.ready import Ready
from prunus.sensitivity.store import CellStore, fingerprint
from prunus.sensitivity.survey import DENSE
from prunus.statistics import Loss, calibration

Progress = Callable[[int, int, str], None]

_SHARES = 4
"""Pieces of work for each worker, at most: more balance the load, and less is lost with a killed one."""
_WORTH = 50
"""Cells for which a piece is worth its own look at the dense model, which takes about as long as five of them."""


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
    workers: int = 1,
    executor: str | Executor | None = None,
    part: tuple[int, int] | str | None = None,
    approximate: float | None = None,
    recalibrate: Any = None,
) -> Curves:
    """Measure how much each target suffers when it alone is pruned, to each level, without fine-tuning.

    evaluate: takes the model, returns a number or {metric: number}, the first metric being the judged one;
        it reads
        *validation* data and puts the model into eval mode itself. A `prunus.training.Evaluation` reads its data
        once for many cells.
    levels: sparsities in [0, 1); with n:m, which has but one, they are replaced by it.
    graph: with it, `filter` and `channel` prune whole coupled groups, as thinning would; without, single
        weights.
    store: a JSON lines file; cells are on disk as they are measured, half a minute's work at a time, and a later call
        with the same model, granularity and criterion measures only what is missing. Several processes may share it.
    data, loss: for criteria that observe the model; see `prunus.statistics.Calibration`.
    progress: called after each cell with (done, total, "target level"), such as the method `at` of a bar of
        `prunus.training.reporter`.
    workers, executor: more than one worker are processes of this machine, which share its cores; "ray" is a Ray
        cluster, or see `prunus.executors`. Model and evaluate then have to be picklable.
    part: (i, n) or "i/n": measure only the i-th of n shares, 1 to n; see `merge`. The curves are of these targets.
    approximate: stop a cell when the 95 % confidence interval of the judged metric's difference to the dense model,
        example by example, is at most ± this. Needs an `Evaluation` judged by top1 or top5, on shuffled data: no cell
        stops while classes, and what the dense model has right, are not as in the whole.
    recalibrate: data on which batch norms are measured anew in every cell, the dense one too.
    Returns the curves. The model is the same afterwards, bit for bit, also when `evaluate` raises. What the pruned
    weights do not change is computed once; the numbers are those of one evaluation per cell, bit for bit at the same
    number of threads. A warning says where and why that needs a whole evaluation per cell.
    Raises TrainingError when `evaluate` fails or returns no number, FileError for a store of something else.
    Source: Han et al. 2015 (arXiv:1506.02626), Li et al. 2017 (arXiv:1608.08710), section 3.2.
    """
    kind, judge = read_granularity(granularity), read_criterion(criterion)
    plain, runner = unwrapped(model), find_executor(workers, executor)
    _check_approximate(approximate, evaluate)
    chosen = _share(find_targets(plain, kind, targets, graph), part)
    steps = _levels(kind, levels, chosen)
    settings = ("coupled" if graph is not None else "single", *(["recalibrated"] if recalibrate is not None else []))
    cells = CellStore(store, fingerprint(plain, kind.name, judge.name, *settings))
    seen = collect_for(plain, judge, chosen, calibration(data, loss))
    cutter = Cutter(model, judge, seen)
    engine = Engine(model, evaluate, cutter, recalibrate, approximate)
    wanted = [DENSE, *(Cell(target, level) for target in chosen for level in steps)]
    told = _Told(cells, wanted, approximate is not None, progress)
    told.measure(engine, runner)
    costs = target_costs(plain, chosen, graph, scored=cutter.scored)
    return replace(_curves(cells, kind, judge, steps, chosen), costs=costs)


def _share(targets: list[Target], part: tuple[int, int] | str | None) -> list[Target]:
    """Return every n-th target, so that shallow and deep ones are shared alike."""
    if part is None:
        return targets
    try:
        number, total = (int(each) for each in (part.split("/") if isinstance(part, str) else part))
    except (TypeError, ValueError):
        number, total = 0, 0
    if not 1 <= number <= total:
        raise InputError(f"part is {part!r}; which of how many is wanted, such as '1/3'")
    if total > len(targets):
        raise InputError(f"part is {part!r}, but there are only {len(targets)} targets to share")
    return targets[number - 1 :: total]


def _check_approximate(approximate: float | None, evaluate: Evaluate) -> None:
    if approximate is None:
        return
    if isinstance(approximate, bool) or not isinstance(approximate, (int, float)) or not 0 < approximate < 1:
        raise InputError(f"approximate is {approximate!r}; half the width of an interval in (0, 1) is wanted")
    if not isinstance(evaluate, Ready) or evaluate.tally() is None:
        raise InputError("approximate needs a prunus.training.Evaluation with named metrics, judged by top1 or top5")
    evaluate.examples(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))  # says so if it has no such value


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


@dataclass
class _Told:
    """Puts what is measured into the store, and tells of it."""

    store: CellStore
    wanted: Sequence[Cell]
    takes_approximate: bool
    progress: Progress | None
    told: set[tuple[str, float]] = field(default_factory=set)

    def measure(self, engine: Engine, runner: Executor) -> None:
        """Measure what the store lacks."""
        missing = self._missing()
        self._tell()
        if not missing:
            return
        rest = [cell for cell in missing if cell != DENSE]
        is_alone = isinstance(runner, Here) or not rest
        for cell, found in engine.measure(rest, self._is_wanted) if is_alone else _shared(engine, runner, rest):
            if cell == DENSE:
                self.store.check_dense(found.metrics)
            if self._is_wanted(cell):
                self.store.add(*cell.key, found.metrics, found.examples)
            self._tell()

    def _is_wanted(self, cell: Cell) -> bool:
        """Tell whether a cell is still to be measured, by us or by those who share the file."""
        self.store.refresh()
        has = cell.key in self.store.cells
        return not has or (cell.key in self.store.examples and not self.takes_approximate)

    def _missing(self) -> list[Cell]:
        return [cell for cell in self.wanted if self._is_wanted(cell)]

    def _tell(self) -> None:
        """Say what is new since the last time, in the order of the cells."""
        for cell in self.wanted:
            if self.progress is None or cell.key in self.told or self._lacks(cell):
                continue
            self.told.add(cell.key)
            self.progress(len(self.told), len(self.wanted), str(cell))

    def _lacks(self, cell: Cell) -> bool:
        return cell.key not in self.store.cells or (cell.key in self.store.examples and not self.takes_approximate)


def _shared(engine: Engine, runner: Executor, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Found]]:
    """Let workers measure shares of the targets."""
    names = list(dict.fromkeys(cell.key[0] for cell in cells))
    workers = getattr(runner, "workers", _SHARES)
    count = min(len(names), max(workers, min(_SHARES * workers, len(cells) // _WORTH)))
    shares = [set(names[number::count]) for number in range(count)]
    pieces = [[n for n, cell in enumerate(cells) if cell.key[0] in share] for share in shares]
    for _, found in runner.map(partial(_measure_share, engine, tuple(cells)), pieces):
        yield from ((DENSE if number is None else cells[number], each) for number, each in found)


def _measure_share(engine: Engine, cells: Sequence[Cell], share: Iterable[int]) -> list[tuple[int | None, Found]]:
    numbers = {cells[number].key: number for number in share}
    chosen = [cells[number] for number in share]
    return [(numbers.get(cell.key), found) for cell, found in engine.measure(chosen)]


def _curves(
    store: CellStore, kind: Granularity, judge: Criterion, levels: tuple[float, ...], targets: Sequence[Target]
) -> Curves:
    dense = store.cells[DENSE.key]
    try:
        values = {
            metric: {t.name: tuple(store.cells[t.name, level][metric] for level in levels) for t in targets}
            for metric in dense
        }
    except KeyError as error:
        raise TrainingError(f"evaluate returned the metric {error} for the dense model only") from None
    early = {t.name: tuple(level for level in levels if (t.name, level) in store.examples) for t in targets}
    approximate = {name: found for name, found in early.items() if found}
    return Curves(next(iter(dense)), kind.name, judge.name, levels, dense, values, approximate=approximate)
