"""The command line: one file per command, no logic."""

from prunus.cli.app import main

__all__ = ["main"]
