"""The coverage sweep: every case in a process of its own, with one thread and a time limit.

    python -m benchmarks.coverage                       # everything, then benchmarks/results/coverage.md
    python -m benchmarks.coverage --screen --only 'timm/*vit*' --out screen.jsonl

A line per case is appended to the store as it finishes; a second run skips what is there, so the sweep may be killed
at any time. `--screen` stops after training, at ratio .5 alone. `--peer` takes the cases through Torch-Pruning instead.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmarks.coverage.cases import names
from benchmarks.coverage.isolate import run
from benchmarks.coverage.report import markdown
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ROOT = Path(__file__).parents[2]
STORE = ROOT / "benchmarks" / "coverage" / "store"
RESULT = ROOT / "benchmarks" / "results" / "coverage.md"


def main() -> None:
    """Run what the store lacks."""
    options = arguments()
    if options.page:
        page(options)
        return
    store = options.out or STORE / f"{'peer' if options.peer else 'screen' if options.screen else 'prunus'}.jsonl"
    wanted = [name for name in names() if any(fnmatch(name, f"*{pattern}*") for pattern in options.only or ["*"])]
    there = {line["case"] for line in read(store)}
    # in random order, so that a sweep that is not done yet is a fair sample
    order = sorted((name for name in wanted if name not in there), key=lambda name: sha256(name.encode()).digest())
    sweep(order, store, options)
    if not options.screen and not options.only:
        page(options)


def page(options: argparse.Namespace) -> None:
    """Write the page of all that the stores hold."""
    command = f"python -m benchmarks.coverage --jobs {options.jobs}"
    lines, peer = list(read(STORE / "prunus.jsonl")), list(read(STORE / "peer.jsonl"))
    missing = sorted(set(names()) - {line["case"] for line in lines})
    RESULT.write_text(markdown(lines, peer, command, options.limit, missing), encoding="utf-8")


def sweep(cases: list[str], store: Path, options: argparse.Namespace) -> None:
    """Run cases side by side, and append each result as it comes."""
    store.parent.mkdir(parents=True, exist_ok=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    commit = commit.strip()
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    console = Console(stderr=True)
    with (
        Progress(*columns, console=console) as progress,
        ThreadPoolExecutor(options.jobs) as pool,
        store.open("a", encoding="utf-8") as file,
    ):
        bar = progress.add_task("", total=len(cases))
        kind = "peer" if options.peer else "one"
        runs = [pool.submit(run, case, kind, screen=options.screen, limit=options.limit) for case in cases]
        for done in as_completed(runs):
            line = {**done.result(), "commit": commit}
            file.write(json.dumps(line) + "\n")
            file.flush()
            verdicts = " ".join(f"{ratio}: {found['status']}" for ratio, found in line["ratios"].items())
            progress.update(bar, advance=1, description=f"{line['case']} {verdicts}")
            if any(found["status"] != "ok" for found in line["ratios"].values()):
                console.print(f"{line['case']}: {next(iter(line['ratios'].values()))['reason']}", markup=False)


def read(store: Path) -> Iterable[dict[str, Any]]:
    """Yield the lines of a store; one cut short by a kill is left out, and its case runs again."""
    if not store.is_file():
        return
    text = store.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        store.write_text(text, encoding="utf-8")
    for line in text.splitlines():
        yield json.loads(line)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="PATTERN", help="cases whose names match; repeatable")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--limit", type=float, default=240.0, help="seconds that one case may take")
    parser.add_argument("--screen", action="store_true")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", action="store_true", help="only write the page of what the stores hold")
    return parser.parse_args()


if __name__ == "__main__":
    main()
