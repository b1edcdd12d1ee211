"""The page of results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.sensitivity.measure import APPROXIMATE, LEVELS, PARTS
from benchmarks.sensitivity.nets import NETS

from prunus.costs import environment

ABOUT = f"""
Each target alone is pruned to {", ".join(f"{level:.0%}" for level in LEVELS)} and judged. *Naive* is one evaluation per
cell; *ours* is `perform_sensitivity_analysis` with an `Evaluation`, one process, one thread. Both go through the
targets in {PARTS} shares, in turns, in the same process; ours surveys the dense model anew in each. **Every number of
both tables is equal, bit for bit**; the run stops otherwise. Read the ratios, first of all that of processor
time. Passes are cut by wall time, so a busy machine makes more of them, and each runs the dense model once.

*Bound* is what leaving out operations that do not depend on the pruned weight can give: the multiply-adds of one pass
per cell over those that do depend on its target. A net whose layers cost alike has a bound of about 2, as half of it
lies behind the average layer. What is above the bound comes from data, metrics and modules' overhead that many cells
share; what is below it, from the survey, a pass of the dense model, and operations without multiply-adds.
"""
MEANT = "the goal of 3 times on one process"


def markdown(lines: Sequence[dict[str, Any]], command: str) -> str:
    """Return the whole page."""
    around = {k: v for k, v in environment().items() if k not in ("device", "dtype")}
    compared = [line for line in lines if line["kind"] != "more"]
    blocks = [
        "# Sensitivity analysis: the same numbers, sooner",
        f"`{command}`",
        ABOUT.strip(),
        "\n".join(f"* {key}: {value}" for key, value in {**around, "threads": 1}.items()),
        "\n".join(f"* **{name}**: {net.about}" for name, net in NETS.items()),
        "\n".join([*_HEAD, *(_row(line) for line in compared)]),
        _verdict(compared),
    ]
    blocks += [_more(line) for line in lines if line["kind"] == "more"]
    graphs = [
        f"![{x['net']}, {x['kind']}](../../docs/concepts/sensitivity-{x['net']}-{x['kind']}.svg)" for x in compared
    ]
    return "\n\n".join([*blocks, *graphs]) + "\n"


_HEAD = (
    "| net | pruned | targets | cells | naive, s | ours, s | ratio, processor time | ratio, wall time | bound |",
    "|---|---|---:|---:|---:|---:|---:|---:|---:|",
)


def ratios(line: dict[str, Any]) -> tuple[float, float]:
    """Return by processor time and by wall time how many times sooner ours is."""
    (a, b), (c, d) = line["seconds"]["naive"], line["seconds"]["ours"]
    return a / c, b / d


def _row(line: dict[str, Any]) -> str:
    processor, wall = ratios(line)
    kind = "coupled filters" if line["kind"] == "filter" else "single weights"
    naive, ours = line["seconds"]["naive"][0], line["seconds"]["ours"][0]
    return (
        f"| {line['net']} | {kind} | {line['targets']} | {line['cells']} | {naive:.0f} | {ours:.0f} "
        f"| **{processor:.2f}** | {wall:.2f} | {line['bound']:.2f} |"
    )


def _verdict(lines: Sequence[dict[str, Any]]) -> str:
    reached = [f"{x['net']} ({x['kind']})" for x in lines if ratios(x)[0] >= 3]
    if len(reached) == len(lines):
        return f"All reach {MEANT}."
    who = f"Only {', '.join(reached)} reach" if reached else "None reaches"
    return (
        f"{who} {MEANT}: the bound itself is below it. Equal bits leave no other way than to run what depends on the "
        "weight. Workers give more where cores are free, early stopping does approximately."
    )


def _more(line: dict[str, Any]) -> str:
    return (
        f"## Workers and early stopping, {line['net']}, single weights\n\n"
        f"Wall time: one process {line['alone']:.0f} s, two workers {line['two workers']:.0f} s "
        f"({line['alone'] / line['two workers']:.2f} times sooner; the same numbers), "
        f"`approximate={APPROXIMATE}` {line['approximate']:.0f} s "
        f"({line['alone'] / line['approximate']:.2f} times sooner): {line['stopped']} of {line['cells']} cells stopped "
        f"early, the worst is off by {line['worst']:.3f}."
    )
