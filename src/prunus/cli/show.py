"""Where results appear: the terminal and the browser."""

from __future__ import annotations

import functools
import os
import sys
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prunus.recipes import Analysis, Result
from prunus.report import print_table, write_report


def console() -> Console:
    """Standard output; wide where it is no terminal, so that lines of a log stay whole."""
    return Console() if sys.stdout.isatty() else Console(width=120)


def show_result(result: Result) -> Path:
    """Say whether there was anything to do, write the report, print its table; returns the page."""
    if result.was_finished:
        line = f"the run in {result.folder} is finished; its report is written again"
        console().print(line, markup=False, highlight=False, soft_wrap=True)
    return show_facts(result.facts, result.folder)


def show_facts(facts: Mapping[str, Any], folder: Path) -> Path:
    """Write the report into the folder and print its table; returns the page."""
    page = write_report(facts, folder)
    print_table(facts, console())
    console().print(f"report: {page}", markup=False, highlight=False, soft_wrap=True)
    return page


def show_analysis(analysis: Analysis) -> None:
    """Print what each target gives, what that comes to, and where everything is."""
    line = functools.partial(console().print, markup=False, highlight=False, soft_wrap=True)
    if analysis.ratios:
        table = Table("target", title="the schedule")
        for name in ("pruned", "feature map"):
            table.add_column(name, justify="right")
        costs = analysis.curves.known_costs("the table").targets
        for name, ratio in sorted(analysis.ratios.items(), key=lambda pair: costs[pair[0]].order):
            table.add_row(escape(name), f"{ratio:.1%}", costs[name].stage.replace("x", " x ") or "-")
        console().print(table)
    if analysis.dense is not None and analysis.left is not None:
        shrinks = analysis.left.params < analysis.dense.params
        words = {"params": "parameters", "macs": "MACs"} if shrinks else {"nnz": "non-zero parameters"}
        pairs = [(getattr(analysis.left, key), getattr(analysis.dense, key), word) for key, word in words.items()]
        found = [f"{left:,.0f} of {dense:,.0f} {word} ({left / dense:.1%})" for left, dense, word in pairs if dense]
        if analysis.left.latency is not None and analysis.dense.latency is not None:
            left, dense = analysis.left.latency, analysis.dense.latency
            found.append(f"{left:.3g} of {dense:.3g} ms, estimated ({left / dense:.1%})")
        line(f"left: {', '.join(found)}")
    for note in analysis.notes:
        line(note)
    for what, path in analysis.files.items():
        line(f"{what}: {path}")


def open_page(page: Path, *, wanted: bool | None) -> None:
    """Open a page in the browser; where nobody said, only on a desktop with a terminal."""
    desktop = sys.platform in ("win32", "darwin") or any(os.environ.get(v) for v in ("DISPLAY", "WAYLAND_DISPLAY"))
    if wanted or (wanted is None and desktop and sys.stdout.isatty()):
        webbrowser.open(page.resolve().as_uri())
