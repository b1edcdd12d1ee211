"""The self-contained page: style sheet, charts and text in one HTML file, no network and no script."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from prunus.errors import PrunusError
from prunus.palette import palette
from prunus.report import charts, counting, formats, metrics, rows
from prunus.report.facts import Facts, Sensitivity

MISSING_EXTRA = "the page needs Jinja2, which is not installed; run: pip install 'prunus[report]'"


_TILES = (
    ("macs", ("fewer MACs", "MACs, dense ÷ pruned")),
    ("latency_median", ("as fast, measured", "the speed, measured")),
    ("nonzeros", ("fewer non-zero parameters", "non-zeros, dense ÷ pruned")),
)


@dataclass(frozen=True)
class Bar:
    """A labelled figure; `share` is the bar's length in percent."""

    label: str
    figure: str
    tone: str
    share: float = 0.0
    kind: str = ""


@dataclass(frozen=True)
class Cell:
    """A figure of the heat table; `drop` in [0, 1] shades it."""

    text: str
    drop: float


@dataclass(frozen=True)
class Line:
    """One target of the heat table."""

    label: str
    cells: tuple[Cell, ...]


def render(facts: Facts) -> str:
    """The page as text.

    facts: with ratio, difference and verdict computed.
    Raises PrunusError without Jinja2.
    """
    text: str = _template().render(**_context(facts))
    return text


def _template() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise PrunusError(MISSING_EXTRA) from error
    # Everything is escaped but the style sheet and our own drawings, which escape their own texts.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_read("report.html.j2"))


def _read(name: str) -> str:
    return (resources.files("prunus.report") / "templates" / name).read_text(encoding="utf-8")


def _context(facts: Facts) -> dict[str, Any]:
    curves = facts.sensitivity
    drawing = charts.sensitivity(curves) if curves else ""
    return {
        "facts": facts,
        "css": _Safe(palette() + _read("report.css")),
        "tiles": list(_tiles(facts)),
        "sections": rows.sections(facts),
        "parts": list(_parts(facts)),
        "training": charts.training(facts),
        "trained_for": _trained_for(facts),
        "bars": [*_group_bars(facts), *_mask_bars(facts)],
        "sensitivity": drawing,
        "levels": [formats.percent(level, 0) for level in curves.levels] if curves else [],
        "heat": list(_heat(curves)) if curves else [],
        "counting": counting.terms(facts),
        "environment": list(_environment(facts)),
        "recipe": recipe_text(facts),
    }


class _Safe(str):
    """Text that is markup already."""

    def __html__(self) -> str:
        return self


def recipe_text(facts: Facts) -> str:
    """The recipe as YAML, or nothing where there is none."""
    if not facts.recipe:
        return ""
    return str(yaml.safe_dump(facts.recipe, sort_keys=False, allow_unicode=True, width=100)).rstrip()


def _tiles(facts: Facts) -> Iterator[Bar]:
    for key, (better, worse) in _TILES:
        ratio = facts.ratio.get(key)
        tone = rows.ratio_tone(ratio)
        if ratio is not None and tone != "plain":
            yield Bar(better if ratio > 1 else worse, formats.ratio(ratio), tone)
    yield from _metric_tile(facts)


def _metric_tile(facts: Facts) -> Iterator[Bar]:
    name, split = metrics.judged(facts), metrics.judged_split(facts)
    change = facts.difference.get(f"{split}.{name}") if name else None
    if name is None or change is None:
        return
    tone = rows.metric_tone(name, change, getattr(facts.dense.metrics, split)[name])
    figure, _, unit = metrics.change(name, change).partition(" ")
    yield Bar(f"{unit + ' of ' if unit else ''}{name}, {split} split", figure, tone)


def _parts(facts: Facts) -> Iterator[Bar]:
    live, total = facts.pruned.nonzeros, facts.pruned.parameters
    whole = max(facts.dense.parameters, total, 1)
    for label, tone, amount in (
        ("kept, not zero", "live", live),
        ("kept, zero", "zero", total - live),
        ("removed", "gone", max(0, facts.dense.parameters - total)),
    ):
        share = amount / whole
        yield Bar(label, f"{formats.count(amount)} ({formats.percent(share, 1)})", tone, round(100 * share, 2))


def _group_bars(facts: Facts) -> Iterator[Bar]:
    for group in facts.groups:
        share = 100 * group.kept / group.size if group.size else 0.0
        yield Bar(group.name, f"{group.kept} of {group.size}", "", round(share, 2), group.kind)


def _mask_bars(facts: Facts) -> Iterator[Bar]:
    for mask in facts.masks:
        shape = " × ".join(map(str, mask.shape))
        kept = 1 - mask.sparsity
        yield Bar(mask.name, f"{formats.percent(mask.sparsity, 1)} zero", "mask", round(100 * kept, 2), shape)


def _heat(curves: Sensitivity) -> Iterator[Line]:
    sign = 1.0 if metrics.higher_is_better(curves.metric) else -1.0
    drops = {
        name: [None if value is None else max(0.0, sign * (curves.dense - value)) for value in values]
        for name, values in curves.curves.items()
    }
    worst = max((drop for line in drops.values() for drop in line if drop is not None), default=0.0) or 1.0
    for name in charts.by_sensitivity(curves):
        cells = tuple(
            Cell(
                metrics.value(curves.metric, value) if value is not None else "—",
                round((drop or 0.0) / worst, 3),
            )
            for value, drop in zip(curves.curves[name], drops[name], strict=True)
        )
        yield Line(name, cells)


def _trained_for(facts: Facts) -> str:
    known = [epoch.seconds for epoch in facts.history if epoch.seconds is not None]
    return formats.seconds(sum(known)) if known else ""


def _environment(facts: Facts) -> Iterator[tuple[str, str]]:
    for key, value in facts.environment.items():
        yield key, str(value)
    yield "model", facts.model.name
    sizes = ", ".join(f"{split} {number}" for split, number in facts.data.sizes.items() if number is not None)
    yield "data", f"{facts.data.name} ({sizes})" if sizes else facts.data.name
    yield "seeds", ", ".join(map(str, facts.seeds)) or "not recorded"
