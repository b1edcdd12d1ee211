"""Run the quickstart on Fashion-MNIST with several seeds; keep the first run's report and a table over all.

python benchmarks/quickstart.py [--seeds 0 1 2] [--out FOLDER]

Interrupted, the same command goes on. Writes benchmarks/results/quickstart/{report.json,seeds.md}; then
benchmarks/readme_table.py puts the report's table into the README.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from prunus import recipes
from prunus.recipes import open_recipe, run
from prunus.report import complete, write_report
from prunus.training import reporter

RESULTS = Path(__file__).parent / "results" / "quickstart"
RECIPE = Path(recipes.__file__).parent / "quickstart_fashion.yaml"
Facts = dict[str, Any]

COLUMNS: dict[str, tuple[Callable[[Facts], float], str]] = {
    "MACs, times fewer": (lambda f: f["ratio"]["macs"], "{:.2f}"),
    "parameters, times fewer": (lambda f: f["ratio"]["parameters"], "{:.2f}"),
    "latency, times faster": (lambda f: f["pruned"]["latency"]["ratio_to_dense"], "{:.2f}"),
    "dense test top1": (lambda f: 100 * f["dense"]["metrics"]["test"]["top1"], "{:.2f}"),
    "pruned test top1": (lambda f: 100 * f["pruned"]["metrics"]["test"]["top1"], "{:.2f}"),
    "difference, points": (
        lambda f: 100 * (f["pruned"]["metrics"]["test"]["top1"] - f["dense"]["metrics"]["test"]["top1"]),
        "{:+.2f}",
    ),
    "random control": (lambda f: 100 * f["baselines"][0]["metrics"]["test"]["top1"], "{:.2f}"),
    "proof, relative error": (lambda f: f["proof"]["max_rel"], "{:.1e}"),
}


def main() -> None:
    """Run, collect, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart-seeds"))
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in options.seeds:
        opened = open_recipe(RECIPE, [f"seed={seed}"], out=str(options.out / f"seed{seed}"))
        result = run(opened, reporter=reporter(Console()))
        write_report(result.facts, result.folder)
        found.append(complete(result.facts))
    kept = {**found[0], "recipe": {**found[0]["recipe"], "out": "prunus-quickstart"}}
    (RESULTS / "report.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "seeds.md").write_text(table(found, options.seeds), encoding="utf-8")


def table(runs: list[Facts], seeds: list[int]) -> str:
    """A row per seed, then mean and standard deviation over seeds."""
    lines = [
        "# The quickstart on Fashion-MNIST, over seeds",
        "",
        f"`python benchmarks/quickstart.py --seeds {' '.join(map(str, seeds))}`; the recipe is the packaged one.",
        "Test data are read once per run, for this table.",
        "",
        *(f"* {key}: {value}" for key, value in runs[0]["environment"].items()),
        "",
        f"| seed | {' | '.join(COLUMNS)} |",
        "|---|" + "---:|" * len(COLUMNS),
    ]
    values = [[read(facts) for read, _ in COLUMNS.values()] for facts in runs]
    shapes = [shape for _, shape in COLUMNS.values()]
    for seed, row in zip(seeds, values, strict=True):
        lines.append(f"| {seed} | {' | '.join(s.format(v) for s, v in zip(shapes, row, strict=True))} |")
    if len(runs) > 1:
        columns = list(zip(*values, strict=True))
        means = " | ".join(s.format(statistics.mean(c)) for s, c in zip(shapes, columns, strict=True))
        spreads = " | ".join(
            s.replace("+", "").format(statistics.stdev(c)) for s, c in zip(shapes, columns, strict=True)
        )
        lines += [f"| mean | {means} |", f"| std | {spreads} |"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
