"""`prunus schema`."""

from __future__ import annotations

import json

import typer

from prunus.cli.errors import plainly


@plainly
def command() -> None:
    """Print the JSON schema of recipes, for editors."""
    from prunus.recipes import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
