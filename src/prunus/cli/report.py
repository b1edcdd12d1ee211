"""`prunus report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.errors import plainly


@plainly
def command(
    folder: Annotated[Path, typer.Argument(help="The out folder of a finished run.")],
) -> None:
    """Write the report of a finished run again, and print its table."""
    from prunus.cli.show import show_facts
    from prunus.recipes import read_facts

    show_facts(read_facts(folder), folder)
