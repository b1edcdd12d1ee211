"""`prunus run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.errors import plainly


@plainly
def command(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override a value: train.epochs=3.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Where the results go, instead of the recipe's `out`.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan; write nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove an earlier run in the out folder.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on; an error where there is no run yet.")] = False,
) -> None:
    """Train, prune, fine-tune, thin, prove and measure as a recipe says; interrupted runs go on."""
    from prunus.cli.show import console, show_result
    from prunus.recipes import open_recipe, preview, run
    from prunus.training import reporter

    opened = open_recipe(recipe, settings or [], out=out)
    if dry_run:
        typer.echo(preview(opened))
        return
    show_result(run(opened, fresh=fresh, resume=resume, reporter=reporter(console())))
