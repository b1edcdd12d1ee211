"""From stores to Markdown: totals per library, forms, failures by reason, times, and the peer beside it."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks.coverage.cases import LIBRARIES
from benchmarks.coverage.one import NOT_APPLICABLE

from prunus import costs

Line = Mapping[str, Any]
SCOPES = (*LIBRARIES, "")
WORDS = {
    "refused": "refused, with the reason",
    "little": "removes less than 20 % at .5",
    "wrong": "wrong",
    "crash": "a stage failed",
    "timeout": "not done in time",
}


def markdown(lines: Sequence[Line], peer: Sequence[Line], command: str, limit: float, missing: Sequence[str]) -> str:
    """Return the whole page. lines, peer: one per case, as the stores hold them; missing: cases that have not run."""
    blocks = [
        f"# Coverage: {sum(map(covered, lines))} of {len(lines)} architectures ({share(lines)})",
        f"`{command}`; a process per case, one thread, {limit:.0f} s each. Covered: at ratios .3 and .5 the model is"
        " captured, thinned (at .5 by 20 % of its parameters or more), proved to 1e-10 in float64 by Prunus and by the"
        " sweep on other inputs, trained one step, reloaded in a fresh process; one case in five, drawn at random, is"
        " exported to ONNX at .5 and checked there." + (f" Not run yet: {', '.join(missing)}." if missing else ""),
        "\n".join(f"* {name}: {value}" for name, value in {**environment(), "commits": commits(lines)}.items()),
        "## By library",
        table(("", "cases", "covered", "", "own class", "graph", *WORDS), [by_library(lines, x) for x in SCOPES]),
        policies(lines),
        spared(lines),
        f"{exported(lines)} cases went to ONNX; {not_applicable(lines)} more cannot be exported by torch even before"
        " they are thinned, and for them this stage does not count.",
        "## Seconds\n\nWall time; what else ran on the machine shows in it.",
        table(("stage", "median", "longest", "of"), seconds(lines)),
        "## What is not covered",
        failures(lines),
    ]
    if peer:
        blocks += ["## Torch-Pruning 1.6.1 on the same cases", about_peer(lines, peer)]
    return "\n\n".join(blocks) + "\n"


def policies(lines: Sequence[Line]) -> str:
    """Say which models needed more than the strictest policy for statistics, and what that means."""
    named = {word: [x["case"] for x in lines if x.get("inexact") == word] for word in ("compensate", "allow")}
    return (
        f"Most are traced with the default `inexact='forbid'`. With `compensate`, which is exact too: "
        f"{', '.join(named['compensate']) or 'none'}. With `allow` (weight standardisation or norms over what is left, "
        f"another function than the masked model, so the sweep's own comparison is left out): "
        f"{', '.join(named['allow']) or 'none'}."
    )


def spared(lines: Sequence[Line]) -> str:
    """Say which models keep groups whole because their class spells out how many units those have."""
    named = [f"{x['case']} ({n})" for x in lines if (n := worst(x).get("spared"))]
    return (
        "Values decide what these run, and their class spells out the size of the groups counted here, which stay"
        f" whole, by name, while the rest is thinned, as `prunus.prune` does: {', '.join(named) or 'none'}."
    )


def commits(lines: Sequence[Line]) -> str:
    """Say how many cases ran on which commit: what failed is run again once it is mended."""
    counts = Counter(line.get("commit", "unknown") for line in lines)
    return ", ".join(f"{name} ({count} cases)" for name, count in counts.most_common())


def environment() -> dict[str, Any]:
    """Describe machine and versions."""
    found: dict[str, Any] = {k: v for k, v in costs.environment().items() if k not in ("threads", "device", "dtype")}
    for name in ("torchvision", "timm", "transformers", "onnxruntime"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def covered(line: Line) -> bool:
    """Tell whether a case passes at every ratio."""
    return all(found["status"] == "ok" for found in line["ratios"].values())


def share(lines: Sequence[Line]) -> str:
    """Return the covered share in percent."""
    return f"{sum(map(covered, lines)) / max(len(lines), 1):.1%}"


def worst(line: Line) -> Mapping[str, Any]:
    """Return what the first ratio that fails found, or the last one."""
    ratios = list(line["ratios"].values())
    return next((found for found in ratios if found["status"] != "ok"), ratios[-1])


def by_library(lines: Sequence[Line], library: str) -> list[str]:
    """Return the row of a library; of all of them for an empty name."""
    own = [line for line in lines if line["case"].startswith(library)]
    statuses = Counter(worst(line)["status"] for line in own)
    forms = Counter(worst(line)["form"] for line in own if covered(line))
    counts = [str(statuses[status]) for status in WORDS]
    name = library or "all"
    return [
        name,
        str(len(own)),
        str(sum(map(covered, own))),
        share(own),
        str(forms["class"]),
        str(forms["graph"]),
        *counts,
    ]


def exported(lines: Sequence[Line]) -> int:
    """Count the cases that were exported and agree in ONNX Runtime."""
    return sum(any(f.get("onnx") not in (None, NOT_APPLICABLE) for f in line["ratios"].values()) for line in lines)


def not_applicable(lines: Sequence[Line]) -> int:
    """Count the cases whose dense model torch does not export."""
    return sum(any(found.get("onnx") == NOT_APPLICABLE for found in line["ratios"].values()) for line in lines)


def seconds(lines: Sequence[Line]) -> list[list[str]]:
    """Return a row per stage: the median and the longest time, and whose it was."""
    taken: dict[str, list[tuple[float, str]]] = {}
    for line in lines:
        for stages in (line.get("seconds", {}), *(found.get("seconds", {}) for found in line["ratios"].values())):
            for stage, value in stages.items():
                taken.setdefault(stage, []).append((value, line["case"]))
        taken.setdefault("all, with imports", []).append((line["wall"], line["case"]))
    rows = []
    for stage, values in taken.items():
        longest, case = max(values)
        rows.append([stage, f"{statistics.median(value for value, _ in values):.2f}", f"{longest:.1f}", case])
    return rows


def failures(lines: Sequence[Line]) -> str:
    """List every case that is not covered, by kind of failure."""
    blocks = []
    for status, words in WORDS.items():
        own = [line for line in lines if not covered(line) and worst(line)["status"] == status]
        if own:
            items = (f"* {line['case']}: {worst(line)['reason'][:220]}" for line in own)
            blocks.append(f"**{words[0].upper()}{words[1:]}** ({len(own)})\n\n" + "\n".join(items))
    return "\n\n".join(blocks) or "Nothing."


def about_peer(lines: Sequence[Line], peer: Sequence[Line]) -> str:
    """Return the peer's table and how it was asked."""
    cases = {line["case"] for line in peer}
    same = [line for line in lines if line["case"] in cases]
    order = ("ok", "norm", *WORDS)
    rows = []
    for library in SCOPES:
        own = [line["ratios"]["0.5"]["status"] for line in peer if line["case"].startswith(library)]
        count = Counter(own)
        ours = [line for line in same if line["case"].startswith(library)]
        rate = f"{(count['ok'] + count['norm']) / max(len(own), 1):.1%}"
        rows.append([library or "all", str(len(own)), share(ours), rate, *(str(count[status]) for status in order)])
    intro = (
        "At .5, with the declarations of `benchmarks/coverage/peer.py` (heads, ignored output layers, bare parameters;"
        " the better of two ways to treat heads), pruned, held against its own masked model, trained one step; neither"
        " reloading nor ONNX is asked of it. `norm`: right where a normalisation whose channels went counts only those"
        " that stay, which is another function than the masked model's; it is counted in its favour. `wrong` includes"
        " attention that is scaled by the number of channels left in a head. The cases are the first of the sweep's"
        " random order. They ran beside other work on two cores, with 90 to 240 s of wall time each; `timeout` is what"
        " was not done by then, so its share would be smaller on an idle machine: the rate is a lower bound."
    )
    return intro + "\n\n" + table(("", "cases", "Prunus", "Torch-Pruning", *order), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, figures to the right."""
    ruler = "|---|" + "---:|" * (len(head) - 1)
    return "\n".join(["| " + " | ".join(head) + " |", ruler, *("| " + " | ".join(row) + " |" for row in rows)])
