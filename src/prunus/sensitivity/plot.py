"""The pictures of a sensitivity analysis: what they share, and the graph of lines."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from prunus.errors import FileError, InputError, NameNotFound
from prunus.quality import Mode, sign_of
from prunus.sensitivity.cutting import check_drop

if TYPE_CHECKING:
    from prunus.sensitivity.curves import Curves

_SUFFIXES = (".svg", ".png", ".pdf")
_MARKERS = "osD^vP*X"
_STYLE = {
    "svg.hashsalt": "prunus",  # with fixed ids the same curves give the same file
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": "#8a8f98",
    "axes.labelcolor": "#1f2328",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": "#5d6670",
    "ytick.color": "#5d6670",
    "grid.color": "#e2dfd9",
}
ACCENT = "#7b2d5e"
ROWS = 30
"""How many names stand in one column of a legend."""


def draw(
    curves: Curves, path: str | os.PathLike[str], kind: str, metric: str, max_drop: float | None, mode: Mode
) -> None:
    """Draw a picture of a kind and write the file; see `Curves.plot`."""
    from prunus.sensitivity.curves import Kind
    from prunus.sensitivity.heat import heat
    from prunus.sensitivity.slopes import slopes

    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(f"plot {path} ends in {suffix or 'no suffix'!r}; one of {', '.join(_SUFFIXES)} is wanted")
    makers: Mapping[str, Callable[[], Any]] = {
        "lines": lambda: lines(curves, metric, limit_of(curves, metric, max_drop, mode)),
        "slopes": lambda: slopes(curves),
        "heat": lambda: heat(curves, metric, max_drop, mode),
    }
    if kind not in makers:
        raise NameNotFound.of("kind of plot", str(kind), get_args(Kind))
    sign_of(mode)
    # without a date the same curves give the same file
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix)
    try:
        with matplotlib().rc_context(_STYLE):
            makers[kind]().savefig(path, dpi=150, bbox_inches="tight", facecolor="white", metadata=metadata)
    except OSError as error:
        raise FileError(f"plot {path} cannot be written: {error.strerror}; name another path") from None


def matplotlib() -> Any:
    """Return matplotlib; raises InputError where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise InputError("plots need matplotlib, which is not installed; pip install 'prunus[report]'") from None
    return matplotlib


def limit_of(curves: Curves, metric: str, max_drop: float | None, mode: Mode) -> float | None:
    """Return the worst value that is accepted, or None."""
    return None if max_drop is None else curves.dense[metric] - sign_of(mode) * check_drop(max_drop)


def by_depth(curves: Curves) -> list[str]:
    """Return the targets in the order in which they run, where that is known."""
    known = {} if curves.costs is None else curves.costs.targets
    return sorted(curves.table, key=lambda name: known[name].order if name in known else 0)


def styles(names: list[str]) -> dict[str, dict[str, Any]]:
    """Return a colour by depth and a marker in turn per target."""
    colours = matplotlib().colormaps["plasma"]
    last = max(1, len(names) - 1)
    return {
        name: {"color": colours(0.88 * number / last), "marker": _MARKERS[number % len(_MARKERS)]}
        for number, name in enumerate(names)
    }


def legend(axes: Any, names: list[str], granularity: str, *, has_order: bool) -> None:
    """Name the lines right of the graph, in columns that are as long as the graph is high."""
    handles, labels = axes.get_legend_handles_labels()
    title = f"{granularity}, first to last" if has_order else granularity
    size = 8.5 if len(names) <= 20 else 7
    axes.legend(
        handles,
        [short(label) for label in labels],
        title=title,
        loc="upper left",
        bbox_to_anchor=(1.02, 1.02),
        fontsize=size,
        title_fontsize=size,
        ncols=math.ceil(len(labels) / ROWS),
        frameon=False,
        borderaxespad=0,
        labelspacing=0.35,
        columnspacing=1.2,
        handlelength=1.8,
        alignment="left",
    )


def short(name: str, limit: int = 34) -> str:
    """Return a name that fits a legend: both ends of a long one."""
    return name if len(name) <= limit else f"{name[: limit // 2 - 1]}…{name[-(limit // 2) :]}"


def is_share(metric: str, values: list[float]) -> bool:
    """Tell whether a metric's values are fractions, which are shown in percent; a loss below 1 is none."""
    return metric != "loss" and all(0 <= value <= 1 for value in values if math.isfinite(value))


def percent(axis: Any) -> None:
    """Label an axis of fractions in percent."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))


def _shown(value: float, share: bool) -> str:
    return f"{100 * value:.4g} %" if share else f"{value:.4g}"


def lines(curves: Curves, metric: str, limit: float | None) -> Any:
    """Return the graph of the metric against sparsity, one line per target, and the accepted value dashed."""
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    names, dense = by_depth(curves), curves.dense[metric]
    share = is_share(metric, [dense, *(v for values in curves.values[metric].values() for v in values)])
    figure = Figure(figsize=(8, 5))
    axes = figure.subplots()
    for name, style in styles(names).items():
        values = [dense, *curves.values[metric][name]]
        axes.plot([0.0, *curves.levels], values, label=name, lw=1.4, ms=4, mew=0, alpha=0.9, **style)
    axes.axhline(dense, color="#8a8f98", linestyle=":", linewidth=1.2, zorder=1)
    axes.annotate("dense", (0, dense), (4, 3), textcoords="offset points", color="#5d6670", fontsize=8.5)
    if limit is not None:
        axes.axhline(limit, color=ACCENT, linestyle="--", linewidth=1.4, zorder=3)
        words, right = f"accepted: {_shown(limit, share)}", ("axes fraction", "data")
        axes.annotate(
            words, (1, limit), (-4, 3), right, "offset points", color=ACCENT, fontsize=8.5, ha="right", zorder=4
        )
    axes.set(xlabel=f"sparsity of one target ({curves.criterion})", ylabel=metric)
    axes.set_xlim(0, min(1.0, max(curves.levels) + 0.05))
    axes.grid(linewidth=0.8)
    axes.set_axisbelow(True)
    percent(axes.xaxis)
    if share:
        percent(axes.yaxis)
    legend(axes, names, curves.granularity, has_order=curves.costs is not None)
    return figure
