"""`prunus search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.errors import plainly


@plainly
def command(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    target: Annotated[str, typer.Option(metavar="BUDGET", help="What it may cost: macs=0.5, params<=2e6, …")],
    method: Annotated[str, typer.Option(help="amc, netadapt, evolve or bayes.")] = "amc",
    trials: Annotated[int | None, typer.Option(help="How many candidates; netadapt decides itself.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the search, instead of the recipe's.")] = None,
    steps: Annotated[int, typer.Option(help="Batches on which netadapt trains each candidate.")] = 10,
    workers: Annotated[int, typer.Option(help="Processes in which netadapt trains candidates side by side.")] = 1,
    pick: Annotated[
        int | None, typer.Option(metavar="TRIAL", help="Write the recipe of this candidate instead of the best.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override a value: train.epochs=3.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Where the results go, instead of the recipe's `out`.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Search anew; the trained model stays.")] = False,
) -> None:
    """Find the ratios of a recipe's policy for a budget; writes a recipe that has them. Interrupted searches go on."""
    from prunus.cli.show import console
    from prunus.recipes import open_recipe, search_recipe
    from prunus.training import reporter

    found = search_recipe(
        open_recipe(recipe, settings or [], out=out),
        method=method,
        target=target,
        trials=trials,
        seed=seed,
        steps=steps,
        workers=workers,
        pick=pick,
        fresh=fresh,
        reporter=reporter(console()),
    )
    for line in (
        str(found.result),
        *(f"front: trial {t.number}, {t.metric:.4g} at {t.share:.3f}" for t in found.result.front),
        *(f"picture: {path}" for path in found.pictures),
        f"next: prunus run {found.recipe}",
    ):
        console().print(line, markup=False, highlight=False, soft_wrap=True)
