"""The plot: accuracy over the share removed, a line per criterion; the control and one refit stand out."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.criteria.methods import columns
from benchmarks.criteria.nets import LARGE, NETS
from benchmarks.criteria.report import CONTROL, Line, accuracy, names, present

PANELS = (("element", "as is"), ("filter", "as is"), ("filter", "recalibrated"))
DASHES = ("-", "--", "-.", ":")
STRONG: Mapping[str, dict[str, Any]] = {
    CONTROL: {"color": "black", "linestyle": (0, (4, 2)), "linewidth": 1.8, "zorder": 9},
    "l1 + lstsq": {"color": "black", "linewidth": 1.8, "zorder": 8},
}


def draw(lines: Sequence[Line], path: Path) -> None:
    """Write the SVG: nets below each other, granularities side by side; nothing where nothing was measured."""
    import matplotlib
    from matplotlib.figure import Figure

    shown = present(lines)
    if not shown:
        return
    drawn = dict.fromkeys(name for kind in ("filter", "element") for name in names(lines, kind))
    criteria = [name for name in drawn if " " not in name and name not in STRONG]
    styles = {**STRONG, **{name: style(number) for number, name in enumerate(criteria)}}
    # text stays text, and the same figures give the same file
    text = {"svg.fonttype": "none", "font.size": 8, "font.sans-serif": ["DejaVu Sans"]}
    with matplotlib.rc_context({"svg.hashsalt": "prunus", **text}):
        figure = Figure(figsize=(9.5, 2.1 * len(shown) + 0.6), layout="constrained")
        grid = figure.subplots(len(shown), len(PANELS), squeeze=False)
        for net, row in zip(shown, grid, strict=True):
            for (kind, way), axes in zip(PANELS, row, strict=True):
                panel(axes, lines, net, kind, way, styles)
        handles = {
            text: line for axes in grid.flat for line, text in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles, loc="outside right upper", fontsize=7, frameon=False)
        figure.savefig(path, metadata={"Date": None}, transparent=False)


def style(number: int) -> dict[str, Any]:
    """Return colour and dashes: ten colours, then the same with other dashes."""
    return {"color": f"C{number % 10}", "linestyle": DASHES[number // 10 % len(DASHES)], "linewidth": 1.0}


def panel(axes: Any, lines: Sequence[Line], net: str, kind: str, way: str, styles: dict[str, dict[str, Any]]) -> None:
    """Draw one net and granularity."""
    heads = columns(kind, {**NETS, **LARGE}[net].ratios)
    dense = accuracy(lines, net, "dense", "dense", "dense", "as is")
    for name, look in styles.items():
        found = {float(c): accuracy(lines, net, kind, name, c, way) for c in heads}
        points = {0.0: statistics.mean(dense), **{x: statistics.mean(y) for x, y in found.items() if y}}
        if len(points) > 1:
            axes.plot(list(points), list(points.values()), label=name, **look)
    if not axes.lines:
        axes.axis("off")
        return
    axes.set_title(f"{net}: {kind}{f', {way}' if kind == 'filter' else ''}", fontsize=8)
    axes.set(xlim=(0, None), ylim=(0, 103))
    axes.grid(axis="y", alpha=0.3)
