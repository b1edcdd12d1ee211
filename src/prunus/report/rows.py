"""The comparison table as rows of text: one definition for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prunus.report import formats, metrics
from prunus.report.facts import Facts
from prunus.report.judgement import NOISE

HALF_A_POINT = 0.005


@dataclass(frozen=True)
class Row:
    """One quantity: its label and the three texts beside it; `tone` is good, bad or plain."""

    label: str
    dense: str
    pruned: str
    change: str
    tone: str


@dataclass(frozen=True)
class Section:
    """Rows that belong together, and what the last column shows."""

    title: str
    rows: tuple[Row, ...]


_SIZE = (
    ("parameters", "Parameters", formats.count),
    ("nonzeros", "Non-zero parameters", formats.count),
    ("weight_bytes", "Weights in memory", formats.size),
    ("file_bytes", "File (safetensors)", formats.size),
)
_WORK = (
    ("macs", "MACs", formats.count),
    ("effective_macs", "Effective MACs (non-zero weights)", formats.count),
    ("peak_activation_bytes", "Peak activations", formats.size),
    ("energy_joules", "Energy (45 nm model)", formats.joules),
)


def sections(facts: Facts) -> list[Section]:
    """Size, work, time, then each split's metrics. A quantity that neither model has is left out."""
    found = [
        Section("Size", tuple(_quantities(facts, _SIZE))),
        Section("Work per example", tuple(_quantities(facts, _WORK))),
        Section(_time_title(facts), tuple(_times(facts))),
        Section("Validation split", tuple(_metrics(facts, "validation"))),
        Section("Test split", tuple(_metrics(facts, "test"))),
    ]
    return [section for section in found if section.rows]


def _quantities(facts: Facts, wanted: tuple[tuple[str, str, Callable[[float | None], str]], ...]) -> Iterator[Row]:
    for key, label, show in wanted:
        dense, pruned = getattr(facts.dense, key), getattr(facts.pruned, key)
        if dense is None and pruned is None:
            continue
        yield _ratio_row(label, show(dense), show(pruned), facts.ratio.get(key))


def _times(facts: Facts) -> Iterator[Row]:
    dense, pruned = facts.dense.latency, facts.pruned.latency
    if dense is None and pruned is None:
        return
    for key, field, label in (
        ("latency_median", "median_ms", "Latency, median"),
        ("latency_p90", "p90_ms", "Latency, 90th percentile"),
    ):
        before, after = (formats.milliseconds(getattr(item, field, None)) for item in (dense, pruned))
        yield _ratio_row(label, before, after, facts.ratio.get(key))


def _time_title(facts: Facts) -> str:
    known = facts.pruned.latency or facts.dense.latency
    if known is None:
        return "Time"
    threads = "1 thread" if known.threads == 1 else f"{known.threads} threads"
    return f"Time, measured on {known.runtime}: batch {known.batch}, {threads}"


def _metrics(facts: Facts, split: str) -> Iterator[Row]:
    before, after = getattr(facts.dense.metrics, split) or {}, getattr(facts.pruned.metrics, split) or {}
    for name in before:
        change = facts.difference.get(f"{split}.{name}")
        yield Row(
            name,
            metrics.value(name, before[name]),
            metrics.value(name, after.get(name)),
            metrics.change(name, change) if change is not None else "—",
            metric_tone(name, change, before[name]),
        )


def _ratio_row(label: str, dense: str, pruned: str, ratio: float | None) -> Row:
    return Row(label, dense, pruned, "—" if ratio is None else formats.ratio(ratio), ratio_tone(ratio))


def ratio_tone(ratio: float | None) -> str:
    """Good above one, bad below, plain within the noise between two runs."""
    if ratio is None or abs(ratio - 1) <= NOISE:
        return "plain"
    return "good" if ratio > 1 else "bad"


def metric_tone(name: str, change: float | None, before: float) -> str:
    """Good or bad from half a point on (2 % of other metrics): less is what two seeds differ by."""
    noise = HALF_A_POINT if metrics.is_fraction(name) else NOISE * abs(before)
    if change is None or abs(change) <= noise:
        return "plain"
    return "good" if (change > 0) == metrics.higher_is_better(name) else "bad"
