"""Every ratio and difference of a report, computed in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prunus.costs import QUANTITIES
from prunus.report.facts import Facts, Measures, as_plain, validate
from prunus.report.judgement import judge

COMPUTED = ("ratio", "difference", "verdict")


def quotient(dense: float | None, pruned: float | None) -> float | None:
    """dense / pruned, or None where one is unknown or the pruned one is zero."""
    if dense is None or pruned is None or pruned == 0:
        return None
    return dense / pruned


def ratios(dense: Measures, pruned: Measures) -> dict[str, float | None]:
    """How many times less the pruned model needs, per quantity.

    `latency_median` is the paired ratio where it was measured (each pair ran back to back, so what else the
    machine did cancels); else the ratio of the medians.
    """
    found = {name: quotient(getattr(dense, name), getattr(pruned, name)) for name in QUANTITIES}
    if dense.latency is None or pruned.latency is None:
        return found | {"latency_median": None, "latency_p90": None}
    paired = pruned.latency.ratio_to_dense
    median = quotient(dense.latency.median_ms, pruned.latency.median_ms) if paired is None else paired
    return found | {
        "latency_median": median,
        "latency_p90": quotient(dense.latency.p90_ms, pruned.latency.p90_ms),
    }


def differences(dense: Measures, pruned: Measures) -> dict[str, float | None]:
    """pruned - dense of every metric, under `<split>.<metric>`."""
    found: dict[str, float | None] = {}
    for split in ("validation", "test"):
        before, after = getattr(dense.metrics, split) or {}, getattr(pruned.metrics, split) or {}
        for name in before:
            found[f"{split}.{name}"] = after[name] - before[name] if name in after else None
    return found


def completed(facts: Mapping[str, Any]) -> Facts:
    """Check facts and compute ratio, difference and verdict anew; what stood there is not even read."""
    measured = validate({key: value for key, value in facts.items() if key not in COMPUTED})
    counted = measured.model_copy(
        update={
            "ratio": ratios(measured.dense, measured.pruned),
            "difference": differences(measured.dense, measured.pruned),
        }
    )
    return counted.model_copy(update={"verdict": judge(counted)})


def complete(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Plain facts with `ratio`, `difference` and `verdict` computed; keys in the order of the schema.

    Raises InputError when the facts break the schema.
    """
    return as_plain(completed(facts))


def verdict(facts: Mapping[str, Any]) -> list[str]:
    """The sentences that the facts support, computed; the first is the headline.

    Raises InputError when the facts break the schema.
    """
    return completed(facts).verdict
