"""Where results appear: the terminal and the browser."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from prunus.recipes import Result
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


def open_page(page: Path, *, wanted: bool | None) -> None:
    """Open a page in the browser; where nobody said, only on a desktop with a terminal."""
    desktop = sys.platform in ("win32", "darwin") or any(os.environ.get(v) for v in ("DISPLAY", "WAYLAND_DISPLAY"))
    if wanted or (wanted is None and desktop and sys.stdout.isatty()):
        webbrowser.open(page.resolve().as_uri())
