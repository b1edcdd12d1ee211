"""What a metric's name says about it: is it a fraction to print as percent, and is more of it better."""

from __future__ import annotations

import re

from prunus.report import formats
from prunus.report.facts import Facts
from prunus.sensitivity import mode_of

_FRACTION = re.compile(
    r"^(top_?\d+|acc(uracy)?|balanced_accuracy|precision|recall|f1|auroc|iou|m?ap)(_.*)?$", re.IGNORECASE
)


def is_fraction(name: str) -> bool:
    """True for accuracies and their kin, which are printed as percent and compared in points."""
    return _FRACTION.match(name) is not None


def higher_is_better(name: str) -> bool:
    """False for losses, errors and perplexities."""
    return mode_of(name) == "max"


def value(name: str, number: float | None) -> str:
    """A metric's value as text."""
    if number is None:
        return formats.MISSING
    return formats.percent(number) if is_fraction(name) else formats.significant(number, 4)


def change(name: str, number: float | None) -> str:
    """A metric's difference as text, with its sign."""
    return formats.points(number) if is_fraction(name) else formats.signed(number)


def judged(facts: Facts) -> str | None:
    """The metric that the run was judged by: the recipe's first, else the first that is not a loss."""
    known = list(facts.dense.metrics.validation)
    wanted = facts.recipe.get("metrics") or []
    first = wanted[0] if isinstance(wanted, list) and wanted else wanted
    if isinstance(first, str) and first in known:
        return first
    return next((name for name in known if higher_is_better(name)), known[0] if known else None)


def judged_split(facts: Facts) -> str:
    """The split whose figures are headlined: `test` where both models have it, else `validation`."""
    return "test" if facts.dense.metrics.test and facts.pruned.metrics.test else "validation"
