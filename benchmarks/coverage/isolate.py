"""One case, one process: forked from a server that has done the imports, which would take longer than most cases."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.coverage.one import RELOADED, SCREEN, reload_here

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["benchmarks.coverage.preload"])


def run(case: str, kind: str, *, screen: bool, limit: float) -> dict[str, Any]:
    """Run one case in a process of its own; a process that dies or overruns gives a result too.

    kind: the module that runs it, `one` or `peer`. limit: seconds.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        process = SERVER.Process(target=isolated, args=(kind, case, screen, folder))
        process.start()
        process.join(limit)
        overrun = process.is_alive()
        process.kill()
        process.join()
        answer, said = Path(folder, "answer"), Path(folder, "said")
        heard = said.read_text(encoding="utf-8", errors="replace") if said.is_file() else ""
        if overrun:
            return broken(case, "timeout", f"{last_stage(heard)}: not done after {limit:.0f} s", start)
        if not answer.is_file():
            why = (heard.strip().splitlines() or ["no output"])[-1][:200]
            return broken(
                case, "crash", f"{last_stage(heard)}: the process ended with {process.exitcode}: {why}", start
            )
        line = json.loads(answer.read_text(encoding="utf-8"))
        for ratio, found in line["ratios"].items():
            if Path(folder, ratio).is_dir() and found["status"] == "ok":
                reload(case, Path(folder, ratio), found, limit)
        return {**line, "wall": round(time.perf_counter() - start, 1)}


def reload(case: str, folder: Path, found: dict[str, Any], limit: float) -> None:
    """Load what a case left in a process that never saw its model, and note how far the outputs are."""
    start = time.perf_counter()
    process = SERVER.Process(target=reloaded, args=(case, str(folder)))
    process.start()
    process.join(limit)
    process.kill()
    process.join()
    answer = folder / "answer"
    difference = float(answer.read_text(encoding="utf-8")) if answer.is_file() else None
    found["seconds"]["reload"], found["reload"] = round(time.perf_counter() - start, 3), difference
    if difference is None:
        found.update(status="crash", reason=f"reload: the process ended with {process.exitcode}", stage="reload")
    elif not difference <= RELOADED:
        found.update(status="wrong", reason=f"reloaded outputs differ by {difference:.1e}", stage="reload")


def reloaded(case: str, folder: str) -> None:
    """Load a case's model in this process, which was forked for it."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    Path(folder, "answer").write_text(str(reload_here(case, Path(folder))), encoding="utf-8")


def isolated(kind: str, case: str, screen: bool, folder: str) -> None:
    """Run one case in this process, which was forked for it, and leave answer and noise in a folder."""
    with open(Path(folder, "said"), "w", encoding="utf-8") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    module = import_module(f"benchmarks.coverage.{kind}")
    options: dict[str, Any] = {} if kind != "one" else SCREEN if screen else {"keep": Path(folder)}
    answer = json.dumps(module.run_case(case, **options))
    Path(folder, "answer").write_text(answer, encoding="utf-8")


def broken(case: str, status: str, reason: str, start: float) -> dict[str, Any]:
    """Return the line of a case whose process gave none."""
    found = {"status": status, "reason": reason}
    return {"case": case, "ratios": {"0.5": found}, "wall": round(time.perf_counter() - start, 1)}


def last_stage(said: str) -> str:
    """Return the last stage that a process announced."""
    stages = [line.removeprefix("stage: ") for line in said.splitlines() if line.startswith("stage: ")]
    return stages[-1] if stages else "start"
