"""The coverage sweep: every case in a process of its own, with one thread and a time limit.

    python -m benchmarks.coverage                       # everything, then benchmarks/results/coverage.md
    python -m benchmarks.coverage --screen --only 'timm/*vit*' --out screen.jsonl

A line per case is appended to the store as it finishes; a second run skips what is there, so the sweep may be killed
at any time. `--screen` stops after training, at ratio .5 alone. `--peer` takes the cases through Torch-Pruning instead.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from benchmarks.coverage import one
from benchmarks.coverage.cases import names
from benchmarks.coverage.report import markdown
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ROOT = Path(__file__).parents[2]
STORE = ROOT / "benchmarks" / "coverage" / "store"
# Each case is a fork of one process that has done the imports: they would take longer than most cases.
SERVER = multiprocessing.get_context("forkserver")
RESULT = ROOT / "benchmarks" / "results" / "coverage.md"


def main() -> None:
    """Run what the store lacks."""
    options = arguments()
    store = options.out or STORE / f"{'peer' if options.peer else 'screen' if options.screen else 'prunus'}.jsonl"
    wanted = [name for name in names() if any(fnmatch(name, f"*{pattern}*") for pattern in options.only or ["*"])]
    there = {line["case"] for line in read(store)}
    sweep([name for name in wanted if name not in there], store, options)
    if not options.screen and not options.only:
        command = f"python -m benchmarks.coverage --jobs {options.jobs}"
        page = markdown(list(read(STORE / "prunus.jsonl")), list(read(STORE / "peer.jsonl")), command, options.limit)
        RESULT.write_text(page, encoding="utf-8")


def sweep(cases: list[str], store: Path, options: argparse.Namespace) -> None:
    """Run cases side by side, and append each result as it comes."""
    store.parent.mkdir(parents=True, exist_ok=True)
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    SERVER.set_forkserver_preload(["benchmarks.coverage.preload"])
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
        for done in as_completed([pool.submit(run, case, options) for case in cases]):
            line = done.result()
            file.write(json.dumps(line) + "\n")
            file.flush()
            verdicts = " ".join(f"{ratio}: {found['status']}" for ratio, found in line["ratios"].items())
            progress.update(bar, advance=1, description=f"{line['case']} {verdicts}")
            if any(found["status"] != "ok" for found in line["ratios"].values()):
                console.print(f"{line['case']}: {next(iter(line['ratios'].values()))['reason']}", markup=False)


def run(case: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one case in a process of its own; a process that dies or overruns gives a result too."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        kind = "peer" if options.peer else "one"
        process = SERVER.Process(target=isolated, args=(kind, case, options.screen, folder), daemon=False)
        process.start()
        process.join(options.limit)
        overrun = process.is_alive()
        process.kill()
        process.join()
        answer, said = Path(folder, "answer"), Path(folder, "said")
        heard = said.read_text(encoding="utf-8", errors="replace") if said.is_file() else ""
        if overrun:
            return broken(case, "timeout", f"{last_stage(heard)}: not done after {options.limit:.0f} s", start)
        if not answer.is_file():
            why = (heard.strip().splitlines() or ["no output"])[-1][:200]
            return broken(
                case, "crash", f"{last_stage(heard)}: the process ended with {process.exitcode}: {why}", start
            )
        return {**json.loads(answer.read_text(encoding="utf-8")), "wall": round(time.perf_counter() - start, 1)}


def isolated(kind: str, case: str, screen: bool, folder: str) -> None:
    """Run one case in this process, which was forked for it, and leave answer and noise in a folder."""
    with open(Path(folder, "said"), "w", encoding="utf-8") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    module = import_module(f"benchmarks.coverage.{kind}")
    answer = json.dumps(module.run_case(case, **(one.SCREEN if screen and kind == "one" else {})))
    Path(folder, "answer").write_text(answer, encoding="utf-8")


def broken(case: str, status: str, reason: str, start: float) -> dict[str, Any]:
    """Return the line of a case whose process gave none."""
    found = {"status": status, "reason": reason}
    return {"case": case, "ratios": {"0.5": found}, "wall": round(time.perf_counter() - start, 1)}


def last_stage(said: str) -> str:
    """Return the last stage that a process announced."""
    stages = [line.removeprefix("stage: ") for line in said.splitlines() if line.startswith("stage: ")]
    return stages[-1] if stages else "start"


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
    return parser.parse_args()


if __name__ == "__main__":
    main()
