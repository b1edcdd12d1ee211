"""The comparison in the terminal, and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunus.report import rows
from prunus.report.facts import Facts
from prunus.report.figures import completed

_STYLES = {"good": "bold green", "bad": "red", "plain": ""}


def print_table(facts: Mapping[str, Any], console: Console | None = None) -> None:
    """Print dense, pruned and their ratio or difference, then the verdict.

    console: where to; standard output by default.
    """
    records = completed(facts)
    console = console or Console()
    console.print(build(records))
    for number, sentence in enumerate(records.verdict):
        console.print(Text(sentence, style="bold" if number == 0 else ""))


def build(facts: Facts) -> Table:
    """The table itself. Names come from users, so they go in as plain text, never as markup."""
    table = Table(title=Text(facts.name), title_justify="left", header_style="bold", pad_edge=False)
    table.add_column("")
    for heading in ("dense", "pruned", "change"):
        table.add_column(heading, justify="right")
    for section in rows.sections(facts):
        table.add_section()
        table.add_row(Text(section.title, style="dim"))
        for row in section.rows:
            table.add_row(Text(row.label), row.dense, row.pruned, Text(row.change, style=_STYLES[row.tone]))
    return table


def table_markdown(facts: Mapping[str, Any]) -> str:
    """Write the comparison as a Markdown table, with the verdict and where it was measured."""
    records = completed(facts)
    lines = ["| | dense | pruned | change |", "|---|---:|---:|---:|"]
    for section in rows.sections(records):
        lines.append(f"| *{_cell(section.title)}* | | | |")
        lines += [f"| {_cell(r.label)} | {r.dense} | {r.pruned} | {r.change} |" for r in section.rows]
    where = ", ".join(f"{key} {records.environment[key]}" for key in _PLACE if key in records.environment)
    sentences = "\n".join(f"* {sentence}" for sentence in records.verdict)
    return "\n".join([*lines, "", sentences, "", f"*{_cell(records.data.name)}; {where}*", ""])


_PLACE = ("cpu", "threads", "torch", "prunus")


def _cell(text: str) -> str:
    """Text in which nothing is Markdown or a tag."""
    return re.sub(r"([|*_`<>\[\]\\])", r"\\\1", text)
