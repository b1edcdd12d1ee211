"""The pictures of a search: its front, and how it learned."""

from __future__ import annotations

import os
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunus.errors import FileError, InputError

if TYPE_CHECKING:
    from prunus.search.result import SearchResult

_SUFFIXES = (".svg", ".png", ".pdf")


def draw_front(result: SearchResult, path: str | os.PathLike[str]) -> None:
    """Draw metric against share of the dense cost; see `SearchResult.plot`."""
    figure, axes = _figure()
    seen = result.trials[1:]
    axes.scatter([t.share for t in seen], [t.metric for t in seen], s=12, color="0.7", label="candidates")
    front = result.front
    axes.step([t.share for t in front], [t.metric for t in front], where="post", marker="o", ms=4, label="front")
    axes.plot([result.best.share], [result.best.metric], "*", ms=13, label="best within the budget")
    axes.set_xlabel(f"{result.budget.quantity} left, share of the dense model")
    axes.set_ylabel(next(iter(result.best.metrics)))
    axes.set_title(f"{result.method}, {result.budget}")
    _save(figure, axes, path)


def draw_learning(result: SearchResult, path: str | os.PathLike[str]) -> None:
    """Draw what each trial earned, and the best so far among those within the budget."""
    figure, axes = _figure()
    sign = 1 if result.mode == "max" else -1
    earned = "reward" in result.trials[-1].notes
    values = [float(t.notes["reward"]) if earned else t.metric for t in result.trials[1:]]
    numbers = range(1, len(values) + 1)
    axes.plot(numbers, values, ".", color="0.7", label="each trial")
    inside = [(n, v) for n, v, t in zip(numbers, values, result.trials[1:], strict=True) if t.is_met]
    best = accumulate((v for _, v in inside), lambda a, b: max(a, b) if earned or sign == 1 else min(a, b))
    axes.step([n for n, _ in inside], list(best), where="post", label="best so far within the budget")
    axes.set_xlabel("trial")
    axes.set_ylabel("reward" if earned else next(iter(result.best.metrics)))
    axes.set_title(f"{result.method}, {result.budget}")
    _save(figure, axes, path)


def _figure() -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("plots need matplotlib, which is not installed; pip install 'prunus[report]'") from None
    figure = Figure(figsize=(7, 4.2))
    return figure, figure.subplots()


def _save(figure: Any, axes: Any, path: str | os.PathLike[str]) -> None:
    import matplotlib

    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(f"plot {path} ends in {suffix or 'no suffix'!r}; one of {', '.join(_SUFFIXES)} is wanted")
    axes.grid(alpha=0.3)
    axes.legend()
    # without a date and with fixed ids the same search gives the same file
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix)
    try:
        with matplotlib.rc_context({"svg.hashsalt": "prunus"}):
            figure.savefig(path, dpi=150, bbox_inches="tight", metadata=metadata)
    except OSError as error:
        raise FileError(f"plot {path} cannot be written: {error.strerror}; name another path") from None
