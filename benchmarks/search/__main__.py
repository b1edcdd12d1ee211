"""Uniform, global, LAMP, sensitivity, AMC, evolution and NetAdapt on a ResNet-8, for one budget, then fine-tuned alike.

    python -m benchmarks.search                            # three seeds, then the page: under an hour on one core
    python -m benchmarks.search --full                     # a ResNet-20 instead, on a page of its own: about four hours
    python -m benchmarks.search --seeds 0 --only amc
    python -m benchmarks.search --page                     # only write the page of what the store holds

A line per budget, seed and way is appended to the store as it finishes, and the searches keep their own trials beside
it: a second run goes on where the first was killed. One process, one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from benchmarks.search.report import markdown
from benchmarks.search.task import Task
from benchmarks.search.ways import WAYS

from prunus.allocation import parse_budget
from prunus.runtimes import LatencyTable, device, latency_table
from prunus.statistics import recalibrate_
from prunus.training.files import append_line, read_lines

ROOT = Path(__file__).parents[2]
STORE = Path(os.environ.get("PRUNUS_BENCH", ROOT / "benchmarks" / "search" / "store"))
RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    """Run what the store lacks, then write the page."""
    options = arguments()
    torch.set_num_threads(1)
    depth, store = (20, STORE / "full") if options.full else (8, STORE)
    store.mkdir(parents=True, exist_ok=True)
    lines = store / "lines.jsonl"
    for seed in [] if options.page else options.seeds:
        for target in options.targets:
            for way in options.only or WAYS:
                done = {(line["target"], line["seed"], line["way"]) for line in read_lines(lines)}
                if (target, seed, way) not in done:
                    append_line(lines, one(Task(seed, store, depth), target, way))
    command = f"python -m benchmarks.search{' --full' if options.full else ''}"
    page = RESULTS / f"search{'-full' if options.full else ''}.md"
    page.write_text(markdown(read_lines(lines), depth, command), encoding="utf-8")


def one(task: Task, target: str, way: str) -> dict[str, Any]:
    """Search, prune, prove, fine-tune, and read the test images of both models."""
    dense, slug = task.model, target.replace("=", "-").replace("@", "-")
    start, worked = time.perf_counter(), time.process_time()
    found = WAYS[way](task, target, task.folder / f"{slug}-{way}-{task.seed}.jsonl")
    searched, processor = time.perf_counter() - start, time.process_time() - worked
    small = found.plan.apply(found.weights)
    recalibrate_(small, task.norms)
    before = task.test(small)
    task.fine_tune(small)
    size, full, budget = task.graph.size(found.plan.sizes), task.graph.size(), parse_budget(target)
    timed = latency_table(task.graph, device(budget.device)) if budget.device else None
    line = {
        "target": target,
        "seed": task.seed,
        "way": way,
        "dense": task.test(dense),
        "judged": found.judged,
        "before": before,
        "after": task.test(small),
        "macs": size.macs / full.macs,
        "params": size.params / full.params,
        "latency": timed.measure(found.plan.sizes).measured if isinstance(timed, LatencyTable) else None,
        "left": {group.name: found.plan.sizes.get(group.name, group.size) for group in task.graph.groups},
        "candidates": found.candidates,
        "seconds": searched,
        "processor": processor,
    }
    print(json.dumps(line), flush=True)
    return line


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--targets", nargs="+", default=["macs=0.5", "latency=0.6@onnxruntime"], help="budgets")
    parser.add_argument("--only", nargs="+", choices=list(WAYS), help="ways")
    parser.add_argument("--full", action="store_true", help="a ResNet-20")
    parser.add_argument("--page", action="store_true", help="only write the page of what the store holds")
    return parser.parse_args()


if __name__ == "__main__":
    main()
