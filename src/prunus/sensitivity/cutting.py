"""Ratios where a line cuts the curves: one per target, or one per stage."""

from __future__ import annotations

import re
from collections.abc import Mapping

from prunus.allocation import check_ratio
from prunus.errors import InputError
from prunus.quality import Mode
from prunus.sensitivity.costs import Costs

_LOWER = re.compile(r"(loss|error|err|perplexity|ppl|mae|mse|rmse|wer|cer|nll)$", re.IGNORECASE)


def mode_of(metric: str) -> Mode:
    """Return `min` for losses, errors and perplexities, by their name."""
    return "min" if _LOWER.search(metric) else "max"


def check_drop(max_drop: object) -> float:
    """Return a drop that may be accepted, at least 0."""
    if isinstance(max_drop, bool) or not isinstance(max_drop, (int, float)) or not max_drop >= 0:
        raise InputError(f"max_drop is {max_drop!r}; a number of at least 0 is wanted, in the metric's own unit")
    return float(max_drop)


def by_stage(ratios: Mapping[str, float], costs: Costs | None, skip: float) -> dict[str, float]:
    """Give every target the smallest ratio of its stage; those below `skip` keep all, and hold nobody back."""
    check_ratio("skip", skip)
    stages = {} if costs is None else {name: costs.targets[name].stage for name in ratios}
    if not all(stages.get(name) for name in ratios):
        raise InputError("per_stage needs the sizes of feature maps; analyse again with graph=, from prunus.trace")
    bearing = {name: ratio for name, ratio in ratios.items() if ratio >= skip}
    common = {stage: min(r for n, r in bearing.items() if stages[n] == stage) for stage in map(stages.get, bearing)}
    return {name: common[stages[name]] if name in bearing else 0.0 for name in ratios}
