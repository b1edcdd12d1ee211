"""Target by level as a map of how much of the metric is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prunus.quality import Mode
from prunus.sensitivity.cutting import check_drop
from prunus.sensitivity.plot import ACCENT, by_depth, is_share, percent, short

if TYPE_CHECKING:
    from prunus.sensitivity.curves import Curves

_COLOURS = ("#fbf4ee", "#f3cdb4", "#e08f7d", "#b8486b", "#7b2d5e", "#35123a")


def heat(curves: Curves, metric: str, max_drop: float | None, mode: Mode) -> Any:
    """Return the map: a row per target, a column per level; what `max_drop` accepts lies left of the line."""
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure

    names, drops = by_depth(curves), curves.drops(metric=metric, mode=mode)
    shown = np.array([curves.values[metric][name] for name in names], dtype=float)
    lost = np.array([drops[name] for name in names], dtype=float)
    finite = lost[np.isfinite(lost)]
    worst = max(float(finite.max(initial=0.0)), 1e-12)
    figure = Figure(figsize=(2.4 + 0.72 * len(curves.levels), 1.2 + 0.26 * len(names)))
    axes = figure.subplots()
    colours = LinearSegmentedColormap.from_list("drop", _COLOURS)
    axes.set_facecolor("#d0d0d0")  # shows where a value is not finite
    clipped = np.where(np.isfinite(lost), np.clip(lost, 0, None), np.nan)
    image = axes.imshow(np.ma.masked_invalid(clipped), cmap=colours, norm=Normalize(0, worst), aspect="auto")
    share = is_share(metric, [curves.dense[metric], *shown.ravel().tolist()])
    for (row, column), value in np.ndenumerate(shown):
        dark = np.isfinite(lost[row, column]) and lost[row, column] > 0.5 * worst
        text = f"{100 * value:.1f}" if share else f"{value:.3g}"
        axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color="white" if dark else "#1f2328")
    axes.set_xticks(range(len(curves.levels)), [f"{100 * level:g} %" for level in curves.levels])
    axes.set_yticks(range(len(names)), [short(name) for name in names], fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(f"sparsity of one target ({curves.granularity}, {curves.criterion})")
    dense = _number(curves.dense[metric], share)
    axes.set_title(f"{metric}{' in percent' if share else ''}; dense: {dense}", loc="left")
    bar = figure.colorbar(image, ax=axes, pad=0.02, label="lost to the dense model", fraction=0.05)
    bar.outline.set_visible(False)
    if share:
        percent(bar.ax.yaxis)
    if max_drop is not None:
        _border(axes, lost <= check_drop(max_drop))
    return figure


def _number(value: float, share: bool) -> str:
    return f"{100 * value:.1f}" if share else f"{value:.4g}"


def _border(axes: Any, accepted: Any) -> None:
    """Draw the line between what is accepted and the first level that is not, row by row."""
    edges = [int(np.argmin(row)) if not row.all() else len(row) for row in accepted]
    xs = [edge - 0.5 for edge in edges for _ in (0, 1)]
    ys = [row + side for row in range(len(edges)) for side in (-0.5, 0.5)]
    axes.plot(xs, ys, color=ACCENT, linewidth=2, solid_joinstyle="miter")
