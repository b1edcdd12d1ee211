"""Writing a report: `report.json` first, then the page."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunus.errors import FileError
from prunus.report import page
from prunus.report.facts import as_plain
from prunus.report.figures import completed


def write_report(facts: Mapping[str, Any], folder: Path) -> Path:
    """Write `report.json` and `report.html` into a folder, which is made where it is missing.

    facts: as docs/report.md says; ratio, difference and verdict are computed anew.
    Returns the path of the page.
    Raises InputError when the facts break the schema, FileError when the folder cannot be written, and
    PrunusError (after report.json was written) without Jinja2.
    """
    records = completed(facts)
    folder = Path(folder)
    text = json.dumps(as_plain(records), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(folder / "report.json", text)
    target = folder / "report.html"
    write_whole(target, page.render(records))
    return target


def write_whole(path: Path, text: str) -> None:
    """All or nothing: a reader never sees half a file, and an error leaves the old one."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise FileError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that can be written to"
        ) from error
