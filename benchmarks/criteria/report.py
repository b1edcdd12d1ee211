"""From stores to Markdown: a table per net and granularity, correlations, seconds, refusals."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from benchmarks.coverage.report import table
from benchmarks.criteria.methods import columns
from benchmarks.criteria.nets import LARGE, NETS
from benchmarks.criteria.units import pearson, spearman

from prunus import costs

Line = Mapping[str, Any]
CONTROL = "random"
TITLES = {
    "element": "single weights, by the share removed",
    "n:m": "n of every m inputs kept",
    "filter": "coupled filters, by the share removed of every group",
}
ABOUT = """\
One shot, no training afterwards; accuracy in percent, mean ± standard deviation over the seeds. The same share goes of
every weight or group, so criteria differ only in what they choose within one. `random` is the control; figures in
italics are worse than it. Weights with fewer than 8 inputs (first and depthwise convolutions) take no part in n:m.
Filters are masked with all that hangs on them, which computes what the thinned net does; batch norms are left as they
were (*as is*) or measured anew on the calibration data in one batch (*recalibrated*). `+ lstsq` refits what is left of
every layer by least squares, layer after layer; `(chooses)` marks methods that choose the zeros as well while they do
so. Nothing was tuned on the test
data; they are read for this page alone.
"""
UNITS = """\
Every filter was removed by itself, and the change of the mean loss measured on the calibration data and on 1000
held-out images of the validation part. *Within groups*: Spearman's correlation of score and change among the units that
a plan compares, mean over groups. *All*: over all units of the net, on held-out data, scores summed over a group's
tensors without normalisation. |Change| is what Molchanov et al. and others of first order estimate; a negative change
is a filter that the data are better off without. *The change itself*: what was measured on the calibration data, taken
for a score, which tells how far the two sets of data agree. Mean ± standard deviation over the seeds.
"""
TRUTH = "*the change itself*"


def markdown(lines: Sequence[Line], command: str) -> str:
    """Return the whole page. lines: as the stores hold them."""
    around = {k: v for k, v in costs.environment().items() if k not in ("device", "dtype")}
    blocks = [
        "# Criteria: accuracy after one shot, without training",
        f"`{command}`",
        ABOUT.strip(),
        "\n".join(f"* {key}: {value}" for key, value in {**around, "threads": 1, "commits": commits(lines)}.items()),
        nets(lines),
    ]
    for net in present(lines):
        for kind, title in TITLES.items():
            for way in ("as is", "recalibrated"):
                if body := accuracies(lines, net, kind, way):
                    blocks += [f"## {net}: {title}{f' ({way})' if kind == 'filter' else ''}", body]
    if body := correlations(lines):
        blocks += ["## What single filters are worth", UNITS.strip(), body]
    blocks += ["## Seconds of processor time to observe and score, median over the seeds", seconds(lines)]
    blocks += ["## What was refused", refusals(lines)]
    return "\n\n".join(blocks) + "\n"


def present(lines: Sequence[Line]) -> list[str]:
    """Return the nets that were run, in their order."""
    return [net for net in (*NETS, *LARGE) if any(found["net"] == net for found in lines)]


def commits(lines: Sequence[Line]) -> str:
    """Say how many lines ran on which commit."""
    counts = Counter(found.get("commit", "unknown") for found in lines)
    return ", ".join(f"{name} ({count} lines)" for name, count in counts.most_common())


def nets(lines: Sequence[Line]) -> str:
    """Say what each net is, and how good it is unpruned."""
    known = {**NETS, **LARGE}
    return "\n".join(
        f"* **{net}**: {known[net].about}. Dense: {spread(accuracy(lines, net, 'dense', 'dense', 'dense', 'as is'))}"
        for net in present(lines)
    )


def accuracy(lines: Sequence[Line], net: str, kind: str, method: str, column: str, way: str) -> list[float]:
    """Return the accuracies of all seeds in percent."""
    place = {"net": net, "kind": kind, "method": method}
    own = [x["columns"].get(column, {}).get(way) for x in lines if {k: x[k] for k in place} == place]
    return [100 * cell["right"] / cell["of"] for cell in own if cell]


def names(lines: Sequence[Line], kind: str) -> list[str]:
    """Return the methods of a granularity: the control, criteria, then what has a solver."""
    found = dict.fromkeys(x["method"] for x in lines if x["kind"] == kind and x["method"] != "truth")
    return sorted(found, key=lambda name: (name != CONTROL, " " in name, name))


def accuracies(lines: Sequence[Line], net: str, kind: str, way: str) -> str:
    """Return the table of a net and granularity; empty where nothing was judged in this way."""
    heads = columns(kind, {**NETS, **LARGE}[net].ratios)
    control = {column: accuracy(lines, net, kind, CONTROL, column, way) for column in heads}
    rows = []
    for name in names(lines, kind):
        cells = {column: accuracy(lines, net, kind, name, column, way) for column in heads}
        if any(cells.values()):
            shown = [marked(cell, control[column], name) for column, cell in cells.items()]
            rows.append([f"`{name}`" if " " not in name else name, *shown])
    return table(("", *heads), rows) if rows else ""


def marked(values: Sequence[float], control: Sequence[float], name: str) -> str:
    """Write mean ± deviation, in italics where the control is better."""
    shown = spread(values)
    is_beaten = bool(values and control) and statistics.mean(values) < statistics.mean(control)
    return f"*{shown}*" if is_beaten and name != CONTROL else shown


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Write mean ± standard deviation; without the deviation for one value, a dash for none."""
    real = [value for value in values if not math.isnan(value)]
    if not real:
        return "–"
    deviation = f" ± {statistics.stdev(real):.{digits}f}" if len(real) > 1 else ""
    return f"{statistics.mean(real):.{digits}f}{deviation}"


def correlations(lines: Sequence[Line]) -> str:
    """Return the tables of correlations of scores with true changes of the loss."""
    measured = {(x["net"], x["seed"]): x["increase"] for x in lines if (x["kind"], x["method"]) == ("units", "truth")}
    scored = [x for x in lines if "scores" in x and (x["net"], x["seed"]) in measured]
    tables = []
    for net in present(scored):
        own = {name: [x for x in scored if (x["net"], x["method"]) == (net, name)] for name in names(lines, "units")}
        values = {TRUTH: [of_truth(changes) for (of, _), changes in measured.items() if of == net]}
        for name, found in own.items():
            values[f"`{name}`"] = [six(x["scores"], x["raw"], measured[net, x["seed"]]) for x in found]
        rows = [[name, *(spread(each, 2) for each in zip(*v, strict=True))] for name, v in values.items() if v]
        tables.append(f"**{net}**\n\n{table(('', *WITH), rows)}")
    return "\n\n".join(tables)


PerGroup = Mapping[str, Sequence[float]]
WITH = (
    "within groups: \\|change\\|, calibration",
    "change, calibration",
    "\\|change\\|, held out",
    "change, held out",
    "all: \\|change\\|, Spearman",
    "Pearson",
)


def six(scores: PerGroup, raw: PerGroup, change: Mapping[str, PerGroup]) -> tuple[float, ...]:
    """Return a line's correlations, in the order of the table's columns."""
    calibration, held_out = change["calibration"], change["held out"]
    everything = flat(raw), flat(held_out).abs()
    return (
        within_groups(scores, sizes(calibration)),
        within_groups(scores, calibration),
        within_groups(scores, sizes(held_out)),
        within_groups(scores, held_out),
        spearman(*everything),
        pearson(*everything),
    )


def of_truth(change: Mapping[str, PerGroup]) -> tuple[float, ...]:
    """Return what the change on the calibration data would get as a score, its size where sizes are compared."""
    signed, size = (six(score, score, change) for score in (change["calibration"], sizes(change["calibration"])))
    return size[0], signed[1], size[2], signed[3], size[4], size[5]


def flat(values: PerGroup) -> torch.Tensor:
    """Return the numbers of all groups, one after the other."""
    return torch.tensor([x for each in values.values() for x in each])


def sizes(values: PerGroup) -> PerGroup:
    """Return their absolute values."""
    return {group: [abs(x) for x in each] for group, each in values.items()}


def within_groups(scores: PerGroup, changes: PerGroup) -> float:
    """Return the mean of Spearman's correlation over groups; one of equal scores counts as 0."""
    found = [spearman(torch.tensor(scores[group]), torch.tensor(changes[group])) for group in changes]
    return statistics.mean(0.0 if math.isnan(value) else value for value in found)


def seconds(lines: Sequence[Line]) -> str:
    """Return the table of what observing and scoring takes, by net, for filters."""
    shown = present(lines)
    rows = []
    for name in names(lines, "filter"):
        taken = [[x["seconds"] for x in lines if is_timed(x, net, name)] for net in shown]
        if " " not in name and any(taken):
            rows.append([f"`{name}`", *(f"{statistics.median(each):.2f}" if each else "–" for each in taken)])
    return table(("filter", *shown), rows)


def is_timed(found: Line, net: str, method: str) -> bool:
    """Tell whether a line says how long a method took on filters of a net."""
    return (found["net"], found["kind"], found["method"]) == (net, "filter", method) and bool(found["columns"])


def refusals(lines: Sequence[Line]) -> str:
    """List what raised an error, with its words, once for all seeds."""
    found: dict[tuple[str, str], list[str]] = {}
    for x in lines:
        for column, reason in x.get("refused", {}).items():
            place = f"{x['net']} {x['kind']}{'' if column == 'all' else ' ' + column}"
            places = found.setdefault((x["method"], reason), [])
            if place not in places:
                places.append(place)
    return "\n".join(f"* {name} on {', '.join(at)}: {why}" for (name, why), at in sorted(found.items())) or "Nothing."
