"""`prunus quickstart`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.errors import plainly


class Data(str, Enum):
    """Which data the quickstart uses."""

    auto = "auto"
    fashion_mnist = "fashion-mnist"
    digits = "digits"


@plainly
def command(
    data: Annotated[Data, typer.Option(help="auto: Fashion-MNIST where it can be had, else digits.")] = Data.auto,
    out: Annotated[Path, typer.Option(help="Where the results go.")] = Path("prunus-quickstart"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove an earlier run in the out folder.")] = False,
    browser: Annotated[
        bool | None, typer.Option("--open/--no-open", help="Open the report; by default on a desktop only.")
    ] = None,
) -> None:
    """The main job on real data: train a small net, prune, thin, prove, measure, report. Minutes."""
    from prunus.cli.show import console, open_page, show_result
    from prunus.recipes import quickstart, run
    from prunus.training import reporter

    shown = reporter(console())
    opened = quickstart(data.value, out, reporter=shown)
    page = show_result(run(opened, fresh=fresh, reporter=shown))
    open_page(page, wanted=browser)
