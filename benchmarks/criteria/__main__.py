"""Every criterion on small nets: accuracy after one shot without training, and what single units are worth.

    python -m benchmarks.criteria --jobs 2                # all, then the page and the plot
    python -m benchmarks.criteria --only lenet5/filter --seeds 0

A line per net, seed, granularity and method is appended to the store as it finishes; a second run does what is not
there: criteria that were registered since, or what a kill cut off. `--full` adds larger nets, and solvers on all.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

from benchmarks.coverage.__main__ import read
from benchmarks.criteria.nets import LARGE, NETS
from benchmarks.criteria.plot import draw
from benchmarks.criteria.report import markdown
from benchmarks.criteria.sweep import ROOT, STORE, run

RESULT = ROOT / "benchmarks" / "results" / "criteria.md"
PLOT = ROOT / "docs" / "concepts" / "criteria.svg"


def main() -> None:
    """Run what the stores lack, then write page and plot."""
    options = arguments()
    if not options.page:
        known = {**NETS, **LARGE} if options.full else NETS
        pairs = [(name, seed, options) for seed in options.seeds for name in known]
        with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            for done in [pool.submit(run, *pair) for pair in pairs]:
                done.result()
    lines = [found for file in sorted(STORE.glob("*.jsonl")) for found in read(file)]
    RESULT.write_text(markdown(lines, "python -m benchmarks.criteria"), encoding="utf-8")
    draw(lines, PLOT)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NET/GRANULARITY", help="a pattern; repeatable")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--limit", type=float, default=240.0, help="seconds of processor time for one line")
    parser.add_argument("--full", action="store_true", help="larger nets, and solvers on every net")
    parser.add_argument("--page", action="store_true", help="only write page and plot of what the stores hold")
    return parser.parse_args()


if __name__ == "__main__":
    main()
