"""How far solvers reach: time and peak memory on one layer, each measured in a fresh process.

    OMP_NUM_THREADS=2 python benchmarks/solver_limits.py [--sizes 256 512 1024 2048 4096] [--solvers alps admm]
        [--limit 900] [--out benchmarks/results/solver_limits.md]

Rows of OUT that are not measured anew are kept; each says how many threads it had.

W is n × n, Gaussian; X has 8192 rows, Gaussian, float32; half of the weights are kept. Sizes at which
a solver takes hours are not run: `lstsq` with another mask in every row and `obs` grow 16-fold per doubling.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunus import costs
from prunus.solvers import solver

ROWS = 8192
SIZES = [256, 512, 1024, 2048, 4096]


@dataclass(frozen=True)
class Case:
    """One solver. flops: n -> operations that the method cannot do without; dtype: what they are done in.

    largest: beyond this n it is not run.
    """

    spec: str
    mask: str
    flops: Callable[[float], float]
    dtype: torch.dtype
    largest: int = 4096


ROUNDS = 30  # of alps, measured on real layers; its penalty grows in every third
CASES = {
    "lstsq, one mask for all rows": Case("lstsq", "shared", lambda n: 0.5**3 / 3 * n**3 + 3 * n**3, torch.float64),
    "lstsq, another mask in every row": Case("lstsq", "random", lambda n: n * (n / 2) ** 3 / 3, torch.float64, 1024),
    "admm": Case("admm", "random", lambda n: 2 * 20 * n**3, torch.float32),
    "admm(gradual=yes)": Case("admm(gradual=yes)", "chosen", lambda n: 2 * 20 * n**3, torch.float32),
    "sparsegpt": Case("sparsegpt", "chosen", lambda n: n**3 + n**3, torch.float32),
    "alps": Case("alps", "chosen", lambda n: (9 + 2 * ROUNDS + 2 * ROUNDS / 3 + 2 * 10) * n**3, torch.float32),
    "swaps": Case("swaps", "chosen", lambda n: n * (n / 8) * n**2 / 4, torch.float64, 2048),
    "obs": Case("obs", "chosen", lambda n: 2 * n**4, torch.float64, 1024),
}


def problem(n: int, mask: str) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Weight, Gram matrix and request."""
    generator = torch.Generator().manual_seed(0)
    gram = torch.zeros(n, n)
    for _ in range(0, ROWS, 1024):
        x = torch.randn(1024, n, generator=generator)
        gram.addmm_(x.T, x)
    weight = torch.randn(n, n, generator=generator)
    if mask == "chosen":
        return weight, gram, {"density": 0.5}
    keep = torch.rand(1 if mask == "shared" else n, n, generator=generator) < 0.5
    return weight, gram, {"keep": keep.expand(n, n).contiguous()}


def rate(dtype: torch.dtype, n: int = 1536) -> float:
    """Operations per second of a matrix product, the fastest of three."""
    a, best = torch.randn(n, n, dtype=dtype), float("inf")
    for _ in range(3):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def peak_mb() -> float:
    """The most memory that this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def one(name: str, n: int) -> dict[str, float]:
    """Run a case in this process."""
    case = CASES[name]
    weight, gram, request = problem(n, case.mask)
    before, wall, cpu = peak_mb(), time.perf_counter(), time.process_time()
    solved = solver(case.spec).solve(weight, gram, **request)
    found = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "error": solved.error}
    found["memory"] = peak_mb() - before
    return {**found, "least": case.flops(n) / rate(case.dtype)}


def measured(name: str, n: int, limit: float) -> str:
    """The row of a case, from a fresh process."""
    case = CASES[name]
    gflop, threads = f"{case.flops(n) / 1e9:,.0f}", torch.get_num_threads()
    if n > case.largest:
        return f"| {name} | {n} | {gflop} | not run | | | | | |"
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    command = [sys.executable, __file__, "--one", name, "--sizes", str(n)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=limit)
    except subprocess.TimeoutExpired:
        spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        return f"| {name} | {n} | {gflop} | | stopped at {limit:.0f} | {spent:.0f} so far | | | {threads} |"
    f = json.loads(run.stdout.splitlines()[-1])
    return (
        f"| {name} | {n} | {gflop} | {f['least']:.1f} | {f['wall']:.1f} | {f['cpu']:.1f} | {f['memory']:,.0f} "
        f"| {f['error']:.4f} | {threads} |"
    )


def kept_rows(page: Path) -> dict[str, str]:
    """Return the rows of a page, by `solver | n`."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return {" | ".join(line[2:].split(" | ")[:2]): line for line in lines if line.startswith("| ")}


def head() -> list[str]:
    """What stands above the rows."""
    return [
        "# Limits of solvers: one n × n layer, half of its weights kept",
        "",
        f"`python benchmarks/solver_limits.py`; Gaussian W and X, {ROWS} rows of X, float32.",
        f"Each row is a fresh process. **The machine was busy with other work** (load {os.getloadavg()[0]:.0f} on "
        f"{os.cpu_count()} cores at the end): wall seconds are too long, CPU seconds nearer to the truth.",
        "",
        *(f"* {name}: {value}" for name, value in costs.environment().items() if name != "threads"),
        "",
        "GFLOP: what the method cannot do without; least: these at the rate of a matrix product of the same dtype,",
        "measured in the same process (wall, on all threads). Memory: the peak above torch, W, G and the mask.",
        "Not run: too long; `lstsq` with another mask in every row and `obs` take 16 times as long per doubling.",
        "",
        "| solver | n | GFLOP | least s | wall s | CPU s | memory MB | relative error | threads |",
        "|---|---|---|---|---|---|---|---|---|",
    ]


def main() -> None:
    """Print the table; write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--solvers", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--limit", type=float, default=900)
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.sizes[0])))
        return
    rows = kept_rows(options.out) if options.out and options.out.exists() else {}
    for n in options.sizes:
        for name in options.solvers:
            rows[f"{name} | {n}"] = measured(name, n, options.limit)
            print(rows[f"{name} | {n}"], flush=True)
            if options.out:
                order = [f"{name} | {n}" for name in CASES for n in SIZES]
                known = [rows[key] for key in order if key in rows]
                options.out.write_text("\n".join([*head(), *known]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
