"""The k lowest of 10⁸ scores: `prunus.selection.lowest_k` beside torch.topk, kthvalue and numpy.partition.

    python benchmarks/selection.py [--scores 100000000] [--rounds 3] [--out benchmarks/results/selection.md]

The scores are those of a model: |w| of 16 layers, float32, in one tensor each. Every contender ends in one
boolean mask per layer. All rounds of all contenders interleave in one run, each in a fresh process, so that
what else the machine does falls on all alike and the peak memory (ru_maxrss, read right after the call)
belongs to one contender alone. The extra memory is that peak minus the peak before the call, with the
scores in place; it counts the masks themselves (one byte per score) for every contender, so the last column
takes them off.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prunus import costs
from prunus.selection import lowest_k

NUM_LAYERS = 16
FRACTION = 0.9


def by_prunus(scores: list[Tensor], k: int) -> list[Tensor]:
    """Two streamed histograms; exact, ties by position."""
    return lowest_k(scores, k)


def by_topk(scores: list[Tensor], k: int) -> list[Tensor]:
    """torch.topk of all scores concatenated, indices scattered into a mask; exact, ties arbitrary."""
    joined = torch.cat([tensor.reshape(-1) for tensor in scores])
    chosen = joined.topk(k, largest=False, sorted=False).indices
    mask = torch.zeros(joined.shape, dtype=torch.bool)
    mask[chosen] = True
    return list(mask.split([tensor.numel() for tensor in scores]))


def by_kthvalue(scores: list[Tensor], k: int) -> list[Tensor]:
    """The k-th value of all scores concatenated, then a comparison; ties over-prune."""
    threshold = torch.cat([tensor.reshape(-1) for tensor in scores]).kthvalue(k).values
    return [tensor <= threshold for tensor in scores]


def by_numpy(scores: list[Tensor], k: int) -> list[Tensor]:
    """numpy.partition in place of all scores concatenated, then a comparison; ties over-prune."""
    joined = np.concatenate([tensor.numpy().reshape(-1) for tensor in scores])
    joined.partition(k - 1)
    return [tensor <= float(joined[k - 1]) for tensor in scores]


CONTENDERS: dict[str, Callable[[list[Tensor], int], list[Tensor]]] = {
    "prunus.selection.lowest_k": by_prunus,
    "torch.topk": by_topk,
    "torch.kthvalue": by_kthvalue,
    "numpy.partition": by_numpy,
}


def layers(num_scores: int) -> list[Tensor]:
    """|w| of normal weights, layer by layer at another scale; filled in place, so that the peak is the scores."""
    generator = torch.Generator().manual_seed(0)
    sizes = [num_scores // NUM_LAYERS + (i < num_scores % NUM_LAYERS) for i in range(NUM_LAYERS)]
    return [torch.empty(size).normal_(0, 0.01 * (1 + i), generator=generator).abs_() for i, size in enumerate(sizes)]


def peak_bytes() -> int:
    """Largest resident set of this process so far; Linux counts in kilobytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def contend(name: str, num_scores: int) -> None:
    """Run one contender in this process; print seconds, extra bytes and the number chosen."""
    torch.set_num_threads(1)
    warm_up = layers(10_000)
    CONTENDERS[name](warm_up, 5_000)
    scores, k = layers(num_scores), round(FRACTION * num_scores)
    before, start = peak_bytes(), time.perf_counter()
    masks = CONTENDERS[name](scores, k)
    seconds, extra = time.perf_counter() - start, peak_bytes() - before
    print(seconds, extra, sum(int(mask.sum()) for mask in masks))


def measure(name: str, num_scores: int) -> tuple[float, int, int]:
    """Run one contender in a fresh process."""
    command = [sys.executable, __file__, "--contend", name, "--scores", str(num_scores)]
    seconds, extra, chosen = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(seconds), int(extra), int(chosen)


def report(num_scores: int, rounds: int) -> str:
    """Interleave all rounds and return the table in Markdown."""
    found: dict[str, list[tuple[float, int, int]]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name, runs in found.items():
            runs.append(measure(name, num_scores))
    ours = [run[0] for run in found["prunus.selection.lowest_k"]]
    lines = [
        f"# Exact selection: the {FRACTION:.0%} lowest of {num_scores:,} float32 scores in {NUM_LAYERS} tensors",
        "",
        f"`python benchmarks/selection.py --scores {num_scores} --rounds {rounds}`; one thread; median of {rounds}"
        " interleaved rounds, each in a fresh process; the ratio is the median of the rounds' ratios.",
        "",
        *(f"* {name}: {value}" for name, value in costs.environment().items() if name != "threads"),
        "",
        "| | seconds | Prunus is faster by | extra memory, MB | without the masks, MB | chosen |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, runs in found.items():
        seconds = statistics.median(run[0] for run in runs)
        ratio = statistics.median(run[0] / own for run, own in zip(runs, ours, strict=True))
        extra = max(run[1] for run in runs)
        lines.append(
            f"| {name} | {seconds:.2f} | {ratio:.1f}× | {extra / 1e6:,.0f} |"
            f" {max(0, extra - num_scores) / 1e6:,.0f} | {runs[0][2]:,} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table; write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=int, default=100_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--contend", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contend:
        contend(options.contend, options.scores)
        return
    text = report(options.scores, options.rounds)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
