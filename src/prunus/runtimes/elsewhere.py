"""Latencies measured elsewhere, on a phone or a board: a table of layers by their channel counts."""

from __future__ import annotations

import bisect
import csv
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from prunus.errors import FileError, InputError, NameNotFound
from prunus.runtimes.device import Args, Device, Kwargs

COLUMNS = ("layer", "in", "out", "ms")


@dataclass(frozen=True)
class Grid:
    """One layer's latencies over its inputs × outputs, ascending; milliseconds."""

    ins: tuple[int, ...]
    outs: tuple[int, ...]
    ms: Mapping[tuple[int, int], float]

    def at(self, num_in: int, num_out: int) -> float:
        """Return the latency, linear between the measured counts in both directions."""
        (a, b, s), (c, d, t) = _between(self.ins, num_in), _between(self.outs, num_out)
        low = (1 - t) * self.ms[a, c] + t * self.ms[a, d]
        return (1 - s) * low + s * ((1 - t) * self.ms[b, c] + t * self.ms[b, d])

    def covers(self, num_in: int, num_out: int) -> bool:
        """Tell whether both counts lie within what was measured."""
        return self.ins[0] <= num_in <= self.ins[-1] and self.outs[0] <= num_out <= self.outs[-1]


class Elsewhere(Device):
    """A CSV table with the columns layer, in, out, ms: a row for each measured count of each layer.

    layer: the module's path, such as `features.0`; `*` is the time of everything else, whatever the counts. The counts
    of a layer form a full grid of ins × outs.
    """

    name = "table"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = Path(path)
        self.rest, self.layers = _read(self.path)

    @property
    def version(self) -> str:
        """The file's name."""
        return self.path.name

    def prepare(self, model: nn.Module, args: Args, kwargs: Kwargs = None) -> Callable[[], object]:
        """Raise InputError: nothing runs there."""
        raise InputError(
            f"{self} was measured elsewhere, so no model can be run on it; measure on torch or onnxruntime"
        )

    def layer(self, name: str) -> Grid:
        """Return a layer's grid. Raises NameNotFound with near names."""
        if name not in self.layers:
            raise NameNotFound.of(f"layer in {self.path}", name, self.layers)
        return self.layers[name]

    def __str__(self) -> str:
        return f"table:{self.path}"


def _read(path: Path) -> tuple[float, dict[str, Grid]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if set(reader.fieldnames or ()) != set(COLUMNS):
                raise FileError(f"{path} has columns {reader.fieldnames}; {', '.join(COLUMNS)} are wanted")
            rows = list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"the latency table {path} cannot be read: {error}; name a CSV file") from None
    rest, found = 0.0, dict[str, dict[tuple[int, int], float]]()
    for number, row in enumerate(rows, start=2):
        try:
            ms = float(row["ms"])
            if not 0 <= ms < float("inf"):
                raise ValueError
            if row["layer"] == "*":
                rest += ms
            else:
                found.setdefault(row["layer"], {})[int(row["in"]), int(row["out"])] = ms
        except (TypeError, ValueError):
            raise FileError(f"{path}, line {number}: {dict(row)} is no layer, two counts and milliseconds") from None
    if not found:
        raise FileError(f"{path} holds no layer; write a row for each measured count of each layer")
    return rest, {name: _grid(path, name, ms) for name, ms in found.items()}


def _grid(path: Path, name: str, ms: Mapping[tuple[int, int], float]) -> Grid:
    ins, outs = (tuple(sorted({key[i] for key in ms})) for i in (0, 1))
    missing = next(((a, b) for a in ins for b in outs if (a, b) not in ms), None)
    if missing is not None:
        raise FileError(f"{path}: {name} lacks in={missing[0]}, out={missing[1]}; give every pair of its counts")
    return Grid(ins, outs, ms)


def _between(known: tuple[int, ...], count: int) -> tuple[int, int, float]:
    """Return the neighbours of a count, and how far it lies from the first to the second."""
    i = min(max(1, bisect.bisect_left(known, count)), len(known) - 1) if len(known) > 1 else 0
    low, high = known[max(0, i - 1)], known[i]
    return low, high, (count - low) / (high - low) if high != low else 0.0
