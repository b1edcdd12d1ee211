"""How a command ends: 0 done, 2 the user can mend it, 130 interrupted."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import ParamSpec

import typer

from prunus.errors import PrunusError

P = ParamSpec("P")


def plainly(command: Callable[P, None]) -> Callable[P, None]:
    """Print an error of ours as one sentence and exit with 2; PRUNUS_DEBUG=1 shows where it came from."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except PrunusError as error:
            if os.environ.get("PRUNUS_DEBUG", "") not in ("", "0"):
                raise
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            typer.echo("interrupted; run the same command to go on", err=True)
            raise typer.Exit(130) from error

    return wrapped
