"""`prunus sensitivity`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.errors import plainly


@plainly
def command(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    granularity: Annotated[
        str | None, typer.Option(metavar="NAME", help="What is pruned together: filter, element, head, 2:4, …")
    ] = None,
    criterion: Annotated[str | None, typer.Option(metavar="NAME", help="By what it is ranked: l1, l2, …")] = None,
    levels: Annotated[str | None, typer.Option(metavar="0.1,0.3,…", help="The sparsities to measure.")] = None,
    targets: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Which layers, by name; may repeat.")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="What each layer alone may lose, for the schedule; 0.02 by default.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="macs=0.5", help="Or the budget that the schedule meets.")
    ] = None,
    latency: Annotated[
        str | None, typer.Option(metavar="onnxruntime", help="Estimate the latency on the page: torch, onnxruntime, …")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that measure side by side.")] = 1,
    part: Annotated[
        str | None, typer.Option(metavar="1/3", help="Measure only this share of the layers, for several machines.")
    ] = None,
    approximate: Annotated[
        float | None, typer.Option(help="Stop a cell once its accuracy is known to ± this, with 95 % confidence.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override a value: train.epochs=3.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Where the results go, instead of the recipe's `out`.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove an earlier run in the out folder.")] = False,
) -> None:
    """Train as a recipe says, find out what each layer can bear; leave graphs, an interactive page and a schedule.

    What the options leave out is as in the recipe's `sensitivity`. Interrupted analyses go on.
    """
    from prunus.cli.show import console, show_analysis
    from prunus.granularity import GROUP_KINDS
    from prunus.recipes import Effort, analyse, open_recipe
    from prunus.training import reporter

    named: object = targets or None
    if granularity in GROUP_KINDS:
        named, granularity = {"kind": granularity, "name": targets or "*"}, "filter"
    given = {
        "granularity": granularity,
        "criterion": criterion,
        "levels": None if levels is None else f"[{levels}]",
        "targets": named and json.dumps(named),
        "max_drop": max_drop,
        "target": target,
        "latency": latency,
    }
    opened = open_recipe(recipe, settings or [], out=out)
    options = [f"sensitivity.{key}={value}" for key, value in given.items() if value is not None]
    if max_drop is not None or target is not None:  # one of the command line takes the place of either in the recipe
        options += [f"sensitivity.{key}=null" for key in ("max_drop", "target") if given[key] is None]
    wanted = open_recipe(recipe, [*(settings or []), *options], out=out).recipe.sensitivity
    effort = Effort(workers, part, approximate)
    show_analysis(analyse(opened, wanted, fresh=fresh, effort=effort, reporter=reporter(console())))
