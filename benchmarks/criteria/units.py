"""Single units: what the loss does when one filter goes, and what criteria had said of it."""

from __future__ import annotations

import time
from typing import Any

import torch
from benchmarks.criteria.cells import Bench, Observed, observed
from benchmarks.criteria.methods import Method
from torch import Tensor

from prunus.criteria import score_target
from prunus.errors import PrunusError
from prunus.granularity import group_targets
from prunus.plans import Plan, named_state


def truth(bench: Bench) -> dict[str, Any]:
    """Remove every filter by itself, as a mask over all that hangs on it, and measure the mean loss again.

    Returns increase: "calibration" and "held out" -> group -> the rise of the loss, one number per unit.
    """
    (fold,) = bench.folds
    parts = {"calibration": fold.calibration, "held out": fold.held_out}
    before = {part: mean_loss(bench, bench.model, batches) for part, batches in parts.items()}
    found: dict[str, dict[str, list[float]]] = {part: {} for part in parts}
    for target in group_targets(bench.graph, "filter"):
        for unit in range(target.num_units):
            gone = torch.arange(target.num_units) == unit
            model = Plan.from_pruned(bench.graph, {target.name: gone}).mask(bench.model)
            for part, batches in parts.items():
                rise = mean_loss(bench, model, batches) - before[part]
                found[part].setdefault(target.name, []).append(rise)
    return {"increase": found}


def mean_loss(bench: Bench, model: torch.nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Return the mean over all samples."""
    found = bench.judge(model, batches)
    return found["loss"] / found["of"]


def unit_scores(bench: Bench, method: Method) -> dict[str, Any]:
    """Score every filter.

    Returns group -> one number per unit. scores: as `prunus.plan` compares them within a group; raw: summed over a
    group's tensors without normalisation, for a comparison between groups.
    """
    (fold,) = bench.folds
    targets, tensors = group_targets(bench.graph, "filter"), named_state(bench.model)
    start = time.process_time()
    try:
        seen: Observed = observed(bench, fold, method, {"granularity": "filter"})
        scores = {t.name: score_target(t, tensors, seen).tolist() for t in targets}
        raw = {t.name: score_target(t, tensors, seen, normalise="none", join="sum").tolist() for t in targets}
    except PrunusError as error:
        return {"refused": {"all": str(error)}}
    return {"scores": scores, "raw": raw, "refused": {}, "seconds": time.process_time() - start}


def pearson(a: Tensor, b: Tensor) -> float:
    """Return the linear correlation of two vectors; nan where one is constant."""
    return float(torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1])


def spearman(a: Tensor, b: Tensor) -> float:
    """Return the correlation of the ranks; equal values share their mean rank."""
    return pearson(mean_ranks(a), mean_ranks(b))


def mean_ranks(values: Tensor) -> Tensor:
    """Return ranks from 1, (N,) float64; equal values share the mean of theirs."""
    _, which, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[which]
