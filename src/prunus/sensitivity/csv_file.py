"""The table that Distiller writes: a row per parameter and sparsity, with top1, top5 and loss."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prunus.errors import FileError, InputError

if TYPE_CHECKING:
    from prunus.sensitivity.curves import Curves

METRICS = ("top1", "top5", "loss")
HEADER = ("parameter", "sparsity", *METRICS)


def write_csv(curves: Curves, path: str | os.PathLike[str]) -> None:
    """Write the table, the dense model as sparsity 0.0 of every target; see `Curves.to_csv`."""
    if not set(METRICS) & set(curves.values):
        raise InputError(f"Distiller's table holds {', '.join(METRICS)}; of these curves' metrics none is among them")
    try:
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([HEADER, *_rows(curves)])
    except OSError as error:
        raise FileError(f"table {path} cannot be written: {error.strerror}; name another path") from None


def _rows(curves: Curves) -> Iterator[list[str | float]]:
    for target in curves.table:
        yield [target, 0.0, *(curves.dense.get(metric, "") for metric in METRICS)]
        for number, level in enumerate(curves.levels):
            found = (curves.values[m][target][number] if m in curves.values else "" for m in METRICS)
            yield [target, level, *found]


def read_csv(path: str | os.PathLike[str], granularity: str, criterion: str) -> Curves:
    """Read the table; see `Curves.from_csv`."""
    from prunus.sensitivity.curves import Curves

    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            header, *rows = [tuple(row) for row in csv.reader(file) if row] or [()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"table {path} cannot be read: {error}; name a file of Distiller's sensitivities") from None
    if header != HEADER:
        raise FileError(f"table {path} has the columns {', '.join(header)}; {', '.join(HEADER)} are wanted")
    known = [i for i in range(len(METRICS)) if all(row[2 + i : 3 + i] != ("",) for row in rows)]
    cells: dict[str, dict[float, list[float]]] = {}
    for number, row in enumerate(rows, start=2):
        try:
            cells.setdefault(row[0], {})[float(row[1])] = [float(row[2 + i]) for i in known]
        except (ValueError, IndexError):
            raise FileError(f"table {path} line {number} is {','.join(row)!r}; a name and numbers are wanted") from None
    levels = sorted({level for found in cells.values() for level in found})
    if not known or levels[:1] != [0.0] or any(sorted(found) != levels for found in cells.values()):
        raise FileError(f"table {path} wants a metric and, for every parameter, the same sparsities, 0 among them")
    first = next(iter(cells.values()))[0.0]
    return Curves(
        metric=METRICS[known[0]],
        granularity=granularity,
        criterion=criterion,
        levels=tuple(levels[1:]),
        dense={METRICS[i]: first[place] for place, i in enumerate(known)},
        values={
            METRICS[i]: {name: tuple(found[level][place] for level in levels[1:]) for name, found in cells.items()}
            for place, i in enumerate(known)
        },
    )
