"""The lines of a net and a seed, one after the other, into their store."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.coverage.__main__ import read
from benchmarks.criteria.cells import Bench, dense, line
from benchmarks.criteria.methods import KINDS, methods
from benchmarks.criteria.nets import LARGE, NETS, Net
from benchmarks.criteria.units import truth, unit_scores

ROOT = Path(__file__).parents[2]
STORE = ROOT / "benchmarks" / "criteria" / "store"

Task = tuple[str, str, Callable[[Bench], dict[str, Any]]]
"""Granularity, method, and what makes the line."""


class OutOfTimeError(BaseException):
    """A line used up its processor time; no exception of the usual kind, so that nobody wraps it."""


def run(name: str, seed: int, options: argparse.Namespace) -> None:
    """Do what the store of a net and a seed lacks; meant for a process of its own."""
    torch.set_num_threads(1)
    net, store = {**NETS, **LARGE}[name], STORE / f"{name}-{seed}.jsonl"
    there = {(found["kind"], found["method"]) for found in read(store)}
    wanted = [task for task in tasks(net, full=options.full) if matches(name, task[0], options.only)]
    missing = [task for task in wanted if task[:2] not in there]
    if not missing:
        return
    try:
        bench = Bench(net, net.build(seed, STORE), net.folds(seed), seed)
    except ModuleNotFoundError as absent:
        print(f"{name}: skipped, {absent}", flush=True)
        return
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    STORE.mkdir(parents=True, exist_ok=True)
    for number, (kind, method, task) in enumerate(missing, 1):
        print(f"[{number}/{len(missing)}] {name}, seed {seed}, {kind}: {method}", flush=True)
        found = within(options.limit, partial(task, bench))
        place = {"net": name, "seed": seed, "kind": kind, "method": method, "commit": commit.stdout.strip()}
        with store.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**place, **found}) + "\n")


def tasks(net: Net, *, full: bool) -> Iterator[Task]:
    """Yield all lines of a net: granularity, method, and the function that makes the line."""
    yield "dense", "dense", dense
    for kind in KINDS:
        for method in methods(kind, solvers=net.solvers or full):
            yield kind, method.name, partial(line, kind=kind, method=method)
    if net.units:
        yield "units", "truth", truth
        for method in methods("filter", solvers=False):
            yield "units", method.name, partial(unit_scores, method=method)


def matches(net: str, kind: str, patterns: list[str] | None) -> bool:
    """Tell whether a net and granularity are asked for."""
    return not patterns or any(fnmatch(f"{net}/{kind}", f"{pattern}*") for pattern in patterns)


def within(limit: float, task: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run a task; what takes more processor time than the limit is a refusal like others."""
    with alarm(limit):
        try:
            return task()
        except OutOfTimeError:
            return {"columns": {}, "refused": {"all": f"not done in {limit:.0f} s of processor time"}}


@contextmanager
def alarm(limit: float) -> Iterator[None]:
    """Raise OutOfTimeError inside after so many seconds of this process' own time."""

    def ring(number: int, frame: object) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
