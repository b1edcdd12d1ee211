"""The colours that all pages share, in light and in dark."""

from __future__ import annotations

from importlib import resources


def palette() -> str:
    """Return CSS that defines the colours as variables of `:root`."""
    return (resources.files("prunus") / "palette.css").read_text(encoding="utf-8")
