"""`prunus verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.errors import plainly


@plainly
def command(
    model: Annotated[str, typer.Argument(metavar="MODULE:FUNCTION", help="What returns the dense model.")],
    file: Annotated[Path, typer.Argument(metavar="FILE.prunus", help="The thinned model.")],
    shapes: Annotated[
        list[str],
        typer.Option("--input", metavar="1,3,32,32", help="Shape of an input; `1,16:int64` for indices; may repeat."),
    ],
    dense: Annotated[
        Path | None,
        typer.Option(metavar="WEIGHTS.safetensors", help="Dense weights: are the thinned ones their slices?"),
    ] = None,
) -> None:
    """Check that a thinned model is its dense class without the removed units; exit with 1 where it is not."""
    from prunus.cli.show import console
    from prunus.recipes import verify_file

    verdict = verify_file(model, file, shapes, dense)
    console().print(str(verdict), markup=False, highlight=False, soft_wrap=True)
    if not verdict.holds:
        raise typer.Exit(1)
