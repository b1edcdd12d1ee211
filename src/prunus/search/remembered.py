"""What was measured of counts, kept beside the store: a search that goes on reckons with the figures it began with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar, cast

from prunus.errors import FileError
from prunus.search.space import Counts
from prunus.training.files import read_lines, write_lines

Figures = TypeVar("Figures", bound=tuple[float, ...])


class Remembered(Generic[Figures]):
    """A function from counts to numbers, asked only for counts that it has not seen.

    path: JSON lines, one per answer; None keeps them in memory only. A torn last line is dropped. What a killed process
    wrote is there; a power failure may take the last ones along, which are then measured again.
    """

    def __init__(self, function: Callable[[Counts], Figures], path: Path | None) -> None:
        self._function, self._path = function, path
        self._known: dict[tuple[tuple[str, int], ...], Figures] = {}
        if path is None:
            return
        lines = read_lines(path)
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            write_lines(path, lines)
        try:
            self._known = {tuple(map(tuple, line["counts"])): cast("Figures", tuple(line["figures"])) for line in lines}
        except (KeyError, TypeError):
            raise FileError(f"{path} has a line of another form; delete it and the store to start anew") from None

    def __call__(self, counts: Counts) -> Figures:
        """Return what the first call for the same counts did."""
        key = tuple(sorted(counts.items()))
        if key not in self._known:
            self._known[key] = self._function(counts)
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"counts": key, "figures": self._known[key]}) + "\n")
        return self._known[key]
