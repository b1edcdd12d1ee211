"""One line of a table: score once, then prune, mend, recalibrate and judge at every ratio."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from benchmarks.criteria.methods import Method, Request, columns, longest_group
from benchmarks.criteria.nets import Batches, Fold, Net
from torch import Tensor, nn

import prunus
from prunus.axes import Graph
from prunus.criteria import Criterion, collect_for, criterion, score_target
from prunus.errors import PrunusError
from prunus.granularity import Piece, TargetSpec, find_targets
from prunus.oneshot.mending import decided
from prunus.plans import named_state
from prunus.statistics import Calibration, Statistics, recalibrate_

Found = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """A dense net with the data of one seed."""

    net: Net
    model: nn.Module
    folds: list[Fold]
    seed: int

    @cached_property
    def graph(self) -> Graph:
        """The traced net."""
        return prunus.trace(self.model, self.folds[0].calibration[0][0][:2])

    def calibration(self, fold: Fold) -> Calibration:
        """What a fold shows."""
        return Calibration(fold.calibration, self.net.loss)

    def judge(self, model: nn.Module, batches: Batches) -> dict[str, float]:
        """Return how many are right, of how many, and the sum of their losses."""
        return judged(self.net, model, batches)

    def spared(self, kind: str) -> list[str]:
        """Weights that a granularity leaves alone: with fewer inputs than its longest group has."""
        wanted = longest_group(kind)
        return [name for name, w in self.model.named_parameters() if w.dim() > 1 and w.shape[1] < wanted]


@torch.no_grad()
def judged(net: Net, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Return how many are right, of how many, and the sum of their losses."""
    found = {"right": 0.0, "of": 0.0, "loss": 0.0}
    for x, y in batches:
        output = model(x)
        found["right"] += int(net.is_right(output, y).sum())
        found["of"] += len(x)
        found["loss"] += float(net.loss(output, y)) * len(x)
    return found


class Observed:
    """A criterion that has seen its data and remembers its scores, so that a plan per ratio costs no pass."""

    needs: frozenset[str] = frozenset()

    def __init__(self, inner: Criterion, statistics: Statistics) -> None:
        self.inner, self.statistics = inner, statistics
        self.scores: dict[tuple[str, str], Tensor] = {}

    @property
    def name(self) -> str:
        """The criterion's."""
        return self.inner.name

    def __getattr__(self, name: str) -> Any:
        """Say all else as the criterion does, such as what it reads."""
        return getattr(self.inner, name)

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,)."""
        key = piece.target, piece.param
        if key not in self.scores:
            self.scores[key] = self.inner.score(piece, self.statistics)
        return self.scores[key]


def observed(bench: Bench, fold: Fold, method: Method, request: Request, spared: TargetSpec = ()) -> Observed:
    """Collect what a criterion needs of all targets of a request, and score them."""
    chosen = criterion(method.spelling(bench.seed))
    targets = find_targets(bench.model, request["granularity"], {"name": "*", "exclude": spared}, bench.graph)
    seen = Observed(chosen, collect_for(bench.model, chosen, targets, bench.calibration(fold)))
    tensors = named_state(bench.model)
    for target in targets:
        score_target(target, tensors, seen)
    return seen


def pruned(
    bench: Bench, fold: Fold, method: Method, request: Request, chooser: str | Criterion, spared: TargetSpec
) -> nn.Module:
    """Return the net with zeros where the method wants them, in its dense shapes, mended where a solver is named.

    It is what `prunus.prune` does before it proves, thins and measures.
    """
    decision = {"criterion": chooser, "protect": spared, **request}
    plan, source, _ = decided(bench.graph, bench.model, method.solver, "sparse", bench.calibration(fold), decision)
    return plan.mask(source)


def line(bench: Bench, kind: str, method: Method) -> Found:
    """Prune by a method at every column of a granularity's table.

    Returns columns: column -> "as is" and, with batch norms, "recalibrated" -> what `judged` returns, summed over
    the folds; refused: column, or "all" -> the reason; seconds: of processor time for what is observed and scored.
    """
    found: Found = {"columns": {}, "refused": {}, "seconds": 0.0}
    spared, wanted = bench.spared(kind), columns(kind, bench.net.ratios)
    for fold in bench.folds:
        start = time.process_time()
        try:
            request = next(iter(wanted.values()))
            chooser = method.criterion if method.chooses else observed(bench, fold, method, request, spared)
        except PrunusError as error:
            found["refused"]["all"] = str(error)
            return found
        found["seconds"] += time.process_time() - start
        for column, request in wanted.items():
            try:
                model = pruned(bench, fold, method, request, chooser, spared)
            except PrunusError as error:
                found["refused"][column] = str(error)
                continue
            add_(found["columns"].setdefault(column, {}), bench, model, fold, recalibrated=kind == "filter")
    return found


def add_(cell: dict[str, dict[str, float]], bench: Bench, model: nn.Module, fold: Fold, *, recalibrated: bool) -> None:
    """Judge a pruned net on a fold's test data, and add to what other folds gave."""
    results = {"as is": bench.judge(model, fold.test)}
    whole = [tuple(torch.cat(part) for part in zip(*fold.calibration, strict=True))]
    if recalibrated and recalibrate_(model, whole):
        results["recalibrated"] = bench.judge(model, fold.test)
    for way, result in results.items():
        before: Mapping[str, float] = cell.get(way, {})
        cell[way] = {key: value + before.get(key, 0.0) for key, value in result.items()}


def dense(bench: Bench) -> Found:
    """Judge the net as it is."""
    cell: dict[str, dict[str, float]] = {}
    for fold in bench.folds:
        add_(cell, bench, bench.model, fold, recalibrated=False)
    return {"columns": {"dense": cell}, "refused": {}, "seconds": 0.0}
