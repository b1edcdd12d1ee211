"""Which charts a report shows, built from the facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from prunus.report import formats, metrics
from prunus.report.facts import Epoch, Facts, Sensitivity
from prunus.report.svg import NUM_COLOURS, Band, Chart, Series, draw

_STAGES = {"train": "dense training", "prune": "pruning", "fine_tune": "fine-tuning"}


def training(facts: Facts) -> list[tuple[str, str]]:
    """(caption, svg) of loss, regularizers' terms, judged metric, and what is left, over one shared epoch axis."""
    history = facts.history
    if not history:
        return []
    bands = _bands(history)
    name = metrics.judged(facts)
    found = [("Training loss", _panel("Training loss", history, bands, {"loss": _losses(history)}, _plain))]
    terms: dict[str, Sequence[float | None]] = {
        name: [epoch.terms.get(name) for epoch in history] for name in _terms(history)
    }
    if terms:
        chart = _panel("Terms of the loss", history, bands, terms, _plain, y_floor=0.0)
        found.append(("Regularizers' terms, each as its mean over the epoch's steps, beside the training loss", chart))
    if name is not None:
        chart = _panel(name, history, bands, {name: [e.validation.get(name) for e in history]}, _shown_as(name))
        found.append((f"{name} on the validation split", chart))
    found.append(
        ("MACs left, and zeros among the parameters that are left (thinning removes them)", _left(facts, bands))
    )
    return [(caption, drawing) for caption, drawing in found if drawing]


def sensitivity(curves: Sensitivity) -> str:
    """One line per target, from the dense value on; the most sensitive are named, the others are grey."""
    ranked = by_sensitivity(curves)
    named = {target: number for number, target in enumerate(ranked[:NUM_COLOURS])}
    lines = [
        Series(target, ((0.0, curves.dense), *zip(curves.levels, values, strict=False)), named.get(target))
        for target, values in curves.curves.items()
    ]
    lines.sort(key=lambda line: NUM_COLOURS if line.colour is None else line.colour)
    return draw(
        Chart(
            title=f"Sensitivity of {curves.metric} to pruning each target alone",
            x_label="pruned share",
            series=tuple(lines),
            show_x=lambda value: formats.percent(value, 0),
            show_y=_shown_as(curves.metric),
            reference=("dense", curves.dense),
            x_ticks=(0.0, *curves.levels),
            height=330,
        )
    )


def by_sensitivity(curves: Sensitivity) -> list[str]:
    """Target names, the one that loses most at its worst level first."""
    sign = 1.0 if metrics.higher_is_better(curves.metric) else -1.0

    def worst(target: str) -> float:
        return min((sign * value for value in curves.curves[target] if value is not None), default=0.0)

    return sorted(curves.curves, key=worst)


def _panel(
    title: str,
    history: Sequence[Epoch],
    bands: tuple[Band, ...],
    lines: Mapping[str, Sequence[float | None]],
    show_y: Callable[[float], str],
    y_floor: float | None = None,
) -> str:
    epochs = range(1, len(history) + 1)
    series = [
        Series(name, tuple(zip(map(float, epochs), values, strict=True)), number)
        for number, (name, values) in enumerate(lines.items())
        if any(value is not None for value in values)
    ]
    return draw(
        Chart(
            title=title,
            x_label="epoch",
            series=tuple(series),
            show_x=lambda value: f"{value:.0f}",
            show_y=show_y,
            bands=bands,
            y_floor=y_floor,
            whole_x=True,
        )
    )


def _left(facts: Facts, bands: tuple[Band, ...]) -> str:
    dense = facts.dense.macs or 1
    lines: dict[str, Sequence[float | None]] = {
        "MACs left": [None if e.macs is None else e.macs / dense for e in facts.history],
        "zeros": [e.sparsity for e in facts.history],
    }
    return _panel("MACs left and zeros", facts.history, bands, lines, _share, y_floor=0.0)


def _bands(history: Sequence[Epoch]) -> tuple[Band, ...]:
    found, start = [], 0.5
    for stage, epochs in groupby(history, key=lambda epoch: epoch.stage):
        end = start + len(list(epochs))
        found.append(Band(start, end, _STAGES[stage]))
        start = end
    return tuple(found)


def _terms(history: Sequence[Epoch]) -> list[str]:
    """Names of the regularizers' terms, in the order in which they first stand."""
    return list(dict.fromkeys(name for epoch in history for name in epoch.terms))


def _losses(history: Sequence[Epoch]) -> list[float | None]:
    return [epoch.loss for epoch in history]


def _shown_as(name: str) -> Callable[[float], str]:
    return _share if metrics.is_fraction(name) else _plain


def _share(value: float) -> str:
    return f"{100 * value:.4g} %"


def _plain(value: float) -> str:
    return f"{value:.4g}"
