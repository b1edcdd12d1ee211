"""`prunus version`."""

from __future__ import annotations

import typer

from prunus._version import __version__


def show(wanted: bool) -> None:
    """Print the version and leave, if it is wanted."""
    if wanted:
        typer.echo(f"prunus {__version__}")
        raise typer.Exit()


def command() -> None:
    """Print the version."""
    show(wanted=True)
