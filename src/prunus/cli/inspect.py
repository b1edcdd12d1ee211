"""`prunus inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.errors import plainly


@plainly
def command(
    model: Annotated[str, typer.Argument(metavar="MODULE:FUNCTION", help="What returns the model.")],
    shapes: Annotated[
        list[str],
        typer.Option("--input", metavar="1,3,32,32", help="Shape of an input; `1,16:int64` for indices; may repeat."),
    ],
    inexact: Annotated[
        str, typer.Option(metavar="POLICY", help="Where a statistic counts units: forbid, compensate or allow.")
    ] = "forbid",
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Draw what hangs together, layer by layer.")
    ] = None,
) -> None:
    """Show what hangs together in a model, what cannot be pruned and why, its costs and its zeros."""
    from prunus.cli.show import console
    from prunus.recipes import inspect_model
    from prunus.report import write_picture

    found = inspect_model(model, shapes, inexact)
    for table in found.tables:
        console().print(table)
    if picture is not None:
        written = write_picture(found.graph, picture)
        console().print(f"picture: {written}", markup=False, highlight=False, soft_wrap=True)
