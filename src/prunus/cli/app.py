"""The program: its options, its commands, and how an error ends it.

Whatever is heavy is imported inside the commands, so that `prunus --help` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from prunus.cli import inspect, quickstart, report, run, schema, search, sensitivity, verify, version

app = typer.Typer(
    name="prunus",
    help="Prune any PyTorch model, prove that what is left is right, show what it gained.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for name, module in {
    "quickstart": quickstart,
    "run": run,
    "sensitivity": sensitivity,
    "search": search,
    "inspect": inspect,
    "verify": verify,
    "report": report,
    "schema": schema,
    "version": version,
}.items():
    app.command(name)(module.command)


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=version.show, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Prune any PyTorch model, prove that what is left is right, show what it gained."""


def main() -> None:
    """Run the command line."""
    app()
