"""One net: the naive loop and the analysis in turns, equal tables, and the bound that the operations give."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from benchmarks.sensitivity.nets import NETS, STORE
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import prunus
from prunus.criteria import criterion
from prunus.granularity import Target, find_targets
from prunus.sensitivity import Curves, perform_sensitivity_analysis
from prunus.sensitivity.cells import Cell, Cutter
from prunus.sensitivity.contents import Keeper, View
from prunus.sensitivity.naive import measure
from prunus.sensitivity.survey import taints_of
from prunus.sensitivity.tape import Tape, mapped
from prunus.statistics import Statistics
from prunus.training import Evaluation

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
PARTS = 2
"""Both ways go through the targets in shares, in turns, so that both meet the same load of the machine."""
APPROXIMATE = 0.05

Table = dict[tuple[str, float], dict[str, float]]
Line = dict[str, Any]


def clock(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what a function gives, its processor time and its wall time in seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    found = work()
    return found, time.process_time() - processor, time.perf_counter() - wall


def naive(cutter: Cutter, evaluate: Evaluation, targets: list[Target]) -> Table:
    """Evaluate once per cell."""
    cells = [Cell(None, 0.0), *(Cell(target, level) for target in targets for level in LEVELS)]
    return {cell.key: measure(cutter.model, evaluate, cutter, cell) for cell in cells}


def table(curves: Curves) -> Table:
    """Return the cells of curves."""
    found: Table = {("", 0.0): dict(curves.dense)}
    for metric, by_target in curves.values.items():
        for target, values in by_target.items():
            for level, value in zip(curves.levels, values, strict=True):
                found.setdefault((target, level), {})[metric] = value
    return found


def compare(name: str, granularity: str) -> Line:
    """Measure a net in both ways. Raises AssertionError where a number differs."""
    model, data = NETS[name].build(), NETS[name].data()
    graph = prunus.trace(model, data[0][0][:2]) if granularity == "filter" else None
    evaluate = Evaluation(data, nn.functional.cross_entropy, metrics=("top1", "loss"))
    targets = find_targets(model, granularity, "*", graph)
    cutter = Cutter(model, criterion("l1"), Statistics())
    analyse = partial(
        perform_sensitivity_analysis, model, evaluate, granularity=granularity, levels=LEVELS, graph=graph
    )
    times: dict[str, list[tuple[float, float]]] = {"naive": [], "ours": []}
    tables: dict[str, Table] = {"naive": {}, "ours": {}}
    for number in range(PARTS):
        ways: Mapping[str, Callable[[], Table]] = {
            "naive": lambda number=number: naive(cutter, evaluate, targets[number::PARTS]),  # type: ignore[misc]
            "ours": lambda number=number: table(analyse(part=(number + 1, PARTS))),  # type: ignore[misc]
        }
        for way in list(ways)[:: -1 if number % 2 else 1]:
            found, *taken = clock(ways[way])
            tables[way].update(found)
            times[way].append((taken[0], taken[1]))
    assert tables["ours"] == tables["naive"], f"{name} {granularity}: the tables differ"
    seconds = {way: [sum(each) for each in zip(*taken, strict=True)] for way, taken in times.items()}
    curves = analyse(store=STORE / f"cells-{name}-{granularity}.jsonl")
    (STORE / f"curves-{name}-{granularity}.json").write_text(json.dumps(curves.to_dict()), encoding="utf-8")
    return {
        "net": name,
        "granularity": granularity,
        "targets": len(targets),
        "cells": len(tables["ours"]),
        "equal": True,
        "seconds": seconds,
        "bound": bound(model, data[0][0], targets),
    }


def more(name: str) -> Line:
    """Measure what two workers and early stopping add, beside one process."""
    model, data = NETS[name].build(), NETS[name].data()
    evaluate = Evaluation(data, nn.functional.cross_entropy, metrics=("top1", "loss"))
    analyse = partial(perform_sensitivity_analysis, model, evaluate, levels=LEVELS)
    one, _, alone = clock(analyse)
    two, _, both = clock(partial(analyse, workers=2))
    assert table(one) == table(two)
    rough, _, early = clock(partial(analyse, approximate=APPROXIMATE))
    gaps = [abs(a - b) for t in one.table for a, b in zip(one.table[t], rough.table[t], strict=True)]
    stopped = sum(len(levels) for levels in rough.approximate.values())
    return {
        "net": name,
        "alone": alone,
        "two workers": both,
        "approximate": early,
        "stopped": stopped,
        "cells": len(gaps),
        "worst": max(gaps),
    }


def bound(model: nn.Module, x: torch.Tensor, targets: list[Target]) -> float:
    """Return how many times the multiply-adds of one pass per cell are those that depend on the cells' targets."""
    cutter = Cutter(model, criterion("l1"), Statistics())
    tape = Tape(taints_of(cutter, targets), {}, {}, Keeper(2**40))
    counted = FlopCounterMode(display=False)
    with torch.no_grad(), counted:
        model(x)
    with torch.no_grad(), tape:
        model(x)
    suffix = 0
    for op in tape.ops:
        args, kwargs = mapped((op.args, op.kwargs), _meta)
        counter = FlopCounterMode(display=False)
        with counter:
            op.function(*args, **kwargs)
        suffix += counter.get_total_flops() * bin(op.taint).count("1")
    return len(targets) * counted.get_total_flops() / suffix


def _meta(view: View) -> torch.Tensor:
    return torch.empty_strided(view.size, view.stride, dtype=view.dtype, device="meta")
