"""The graph of a sensitivity analysis."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunus.errors import FileError, InputError

if TYPE_CHECKING:
    from prunus.sensitivity.curves import Curves

_SUFFIXES = (".svg", ".png", ".pdf")
_MARKERS = "osD^vP*X"


def draw(curves: Curves, path: str | os.PathLike[str], metric: str) -> None:
    """Draw one line per target, the dense value dashed, and write the file; see `Curves.plot`."""
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(f"plot {path} ends in {suffix or 'no suffix'!r}; one of {', '.join(_SUFFIXES)} is wanted")
    figure = _figure(curves, metric)
    # without a date and with fixed ids the same curves give the same file
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix)
    try:
        with _matplotlib().rc_context({"svg.hashsalt": "prunus"}):
            figure.savefig(path, dpi=150, bbox_inches="tight", metadata=metadata)
    except OSError as error:
        raise FileError(f"plot {path} cannot be written: {error.strerror}; name another path") from None


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise InputError("plots need matplotlib, which is not installed; pip install 'prunus[report]'") from None
    return matplotlib


def _figure(curves: Curves, metric: str) -> Any:
    mpl = _matplotlib()
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    targets = curves.values[metric]
    figure = Figure(figsize=(8, 4.5))
    axes = figure.subplots()
    colours = mpl.colormaps["viridis"]
    for number, (target, values) in enumerate(targets.items()):
        style = {"color": colours(number / max(1, len(targets) - 1)), "marker": _MARKERS[number % len(_MARKERS)]}
        axes.plot([0.0, *curves.levels], [curves.dense[metric], *values], label=target, linewidth=1.2, **style)
    axes.axhline(curves.dense[metric], color="grey", linestyle="--", linewidth=1, label="dense")
    axes.set(xlabel=f"sparsity ({curves.granularity}, {curves.criterion})", ylabel=metric, xlim=(0, 1))
    axes.grid(alpha=0.3)
    columns = 1 + len(targets) // 24
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize="small", ncols=columns)
    return figure
