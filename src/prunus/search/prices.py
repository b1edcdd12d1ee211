"""Measured prices, kept beside the store: a search that goes on reckons with the figures that it began with."""

from __future__ import annotations

import json
from pathlib import Path

from prunus.errors import FileError
from prunus.search.meter import Ruler
from prunus.search.space import Counts
from prunus.training.files import read_lines, write_lines

Price = tuple[float, float]


class Prices:
    """A ruler that asks another one only for counts that it has not seen.

    path: JSON lines, one per price; a torn last line is dropped. What a killed process wrote is there; a power failure
    may take the last ones along, which are then measured again.
    """

    def __init__(self, ruler: Ruler, path: Path) -> None:
        self._ruler, self._path = ruler, path
        lines = read_lines(path)
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            write_lines(path, lines)
        try:
            self._known = {tuple(map(tuple, line["counts"])): (line["value"], line["dense"]) for line in lines}
        except (KeyError, TypeError):
            raise FileError(f"{path} has a line that is no price; delete it and the store to start anew") from None

    def __call__(self, counts: Counts) -> Price:
        """Return (value, dense), as another call for the same counts did."""
        key = tuple(sorted(counts.items()))
        if key not in self._known:
            value, dense = self._ruler(counts)
            self._known[key] = (value, dense)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"counts": key, "value": value, "dense": dense}) + "\n")
        return self._known[key]
