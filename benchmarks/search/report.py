"""From the store to Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from benchmarks.coverage.report import table
from benchmarks.criteria.units import spearman
from benchmarks.search.task import ABOUT, NETS, SHORT_STEPS
from benchmarks.search.ways import CANDIDATES, CRITERION, EPISODES, WAYS

from prunus import costs
from prunus.allocation import parse_budget

Line = Mapping[str, Any]
ABOUT_WAYS = f"""\
* `uniform`: one ratio for all groups; `global`, `lamp`: one threshold over normalised, or LAMP's, scores. None judges.
* `sensitivity`: the curves of single groups; `curves.ratios_for` fills the budget by what they foresee to lose least.
* `amc`: {EPISODES} episodes; `evolve`: {CANDIDATES} candidates of NSGA-II.
* `netadapt`: rounds of proposals, each fine-tuned on {SHORT_STEPS} batches; it hands on the weights that it trained.
* `netadapt-ratios`: its counts on the dense weights, so that all rows start from the same weights.

Units go by `{CRITERION}` everywhere. *judged*: the best candidate on the images that judged; *before*, *after*: on the
test images, before and after the same fine-tuning. Time is the search's alone, of the first run: the
processor's says more, the other is of a machine that did other work, too."""


def markdown(lines: Sequence[Line], depth: int, command: str) -> str:
    """Return the whole page."""
    around = {k: v for k, v in costs.environment().items() if k not in ("device", "dtype")}
    blocks = [
        "# Search: which ratios, for one budget",
        f"`{command}`",
        f"{NETS[depth]}, {ABOUT}",
        ABOUT_WAYS,
        "\n".join(f"* {key}: {value}" for key, value in {**around, "threads": 1}.items()),
    ]
    for target in dict.fromkeys(line["target"] for line in lines):
        mine = [line for line in lines if line["target"] == target]
        seeds = sorted({line["seed"] for line in mine})
        dense = {line["seed"]: line["dense"] for line in mine}
        blocks.append(f"## {target}: seeds {', '.join(map(str, seeds))}; dense {_spread(list(dense.values()))}")
        blocks.append(_rows(mine))
        blocks += [_met(mine, target), _verdict(mine), _why(mine)]
        blocks.append("### Units left, first seed")
        blocks.append(_left(mine, seeds[0]))
    return "\n\n".join(blocks) + "\n"


def _rows(lines: Sequence[Line]) -> str:
    head = [
        "",
        "seeds",
        "before",
        "after",
        "judged",
        "MACs left",
        "parameters left",
        "latency left",
        "candidates",
        "seconds",
        "CPU s",
    ]
    rows = []
    for way in WAYS:
        mine = [line for line in lines if line["way"] == way]
        if not mine:
            continue
        timed = [line["latency"] for line in mine if line.get("latency") is not None]
        judged = [line["judged"] for line in mine if line["judged"] is not None]
        rows.append(
            [
                f"`{way}`",
                str(len(mine)),
                *(_spread([line[key] for line in mine]) for key in ("before", "after")),
                _spread(judged) if judged else "",
                *(f"{statistics.mean(line[key] for line in mine):.3f}" for key in ("macs", "params")),
                f"{statistics.mean(timed):.3f}" if timed else "",
                f"{statistics.mean(line['candidates'] for line in mine):.0f}",
                *(f"{statistics.median(line[key] for line in mine):.0f}" for key in ("seconds", "processor")),
            ]
        )
    return table(head, rows)


def _verdict(lines: Sequence[Line]) -> str:
    """Say of AMC and NetAdapt whether they beat uniform, seed by seed, before and after the fine-tuning."""
    plain = {line["seed"]: line for line in lines if line["way"] == "uniform"}
    said = []
    for way in ("amc", "evolve", "netadapt", "netadapt-ratios"):
        pairs = [(line, plain[line["seed"]]) for line in lines if line["way"] == way and line["seed"] in plain]
        if pairs:
            gains = {key: [100 * (mine[key] - other[key]) for mine, other in pairs] for key in ("before", "after")}
            words = [f"{key} fine-tuning by {', '.join(f'{g:+.2f}' for g in gains[key])} points" for key in gains]
            said.append(f"* `{way}` over `uniform`, seed by seed: {'; '.join(words)}.")
    return "\n".join(said)


def _met(lines: Sequence[Line], target: str) -> str:
    """Say how far from a latency that was asked for the whole models were measured."""
    budget = parse_budget(target)
    if budget.quantity != "latency":
        return ""
    by_way: dict[str, list[float]] = {}
    for line in lines:
        by_way.setdefault(line["way"], []).append(line["latency"] / budget.limit - 1)
    found = "; ".join(f"`{way}` {', '.join(f'{miss:+.1%}' for miss in misses)}" for way, misses in by_way.items())
    return (
        f"Measured against asked, seed by seed: {found}. All look latencies up, measure whole models, and end with one "
        "that keeps to what was asked; the measurement here is another one than theirs. How much more than needed is "
        "gone comes from the kernels' steps, to which all keep; `amc` and `evolve` also judge a milder net where the "
        "best leaves time unused, and keep the one that is judged better, which need not be the milder. Compare the "
        "rows with that in mind."
    )


def _why(lines: Sequence[Line]) -> str:
    """Say what the accuracy that a search sees tells of the accuracy that is had after fine-tuning."""
    ranks = []
    for seed in {line["seed"] for line in lines}:
        mine = [line for line in lines if line["seed"] == seed and line["way"] != "netadapt"]
        if len(mine) > 2:
            ranks.append(spearman(*(torch.tensor([line[key] for line in mine]) for key in ("before", "after"))))
    if not ranks:
        return ""
    plain = [line["after"] for line in lines if line["way"] == "uniform"]
    learned = [line["after"] for line in lines if line["way"] == "amc"]
    found = ", ".join(f"{rank:+.2f}" for rank in ranks)
    text = (
        "What a search sees is the accuracy before fine-tuning. Its rank correlation with the accuracy after it, over "
        f"all ways that start from the dense weights, is {found}, seed by seed"
    )
    if learned and plain and statistics.mean(learned) <= statistics.mean(plain):
        return (
            f"{text}: here it says little of what training makes of a net, which is a reason why `amc` wins before "
            "and not after. NetAdapt judges after a short training, and sees more; `netadapt-ratios` says what of its "
            "gain is left without the weights that it trained. So few seeds do not tell tenths of a point apart."
        )
    return f"{text}."


def _left(lines: Sequence[Line], seed: int) -> str:
    mine = {line["way"]: line["left"] for line in lines if line["seed"] == seed}
    groups = list(next(iter(mine.values())))
    return table(["", *groups], [[f"`{way}`", *(str(mine[way][g]) for g in groups)] for way in WAYS if way in mine])


def _spread(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.mean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean
