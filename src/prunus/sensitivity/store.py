"""The file of measured cells: one JSON line each, which several processes may append to at the same time."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.errors import FileError, InputError
from prunus.journal import Journal

FORMAT = "prunus-sensitivity/1"

Metrics = dict[str, float]
Cells = dict[tuple[str, float], Metrics]


def fingerprint(model: nn.Module, *settings: str) -> str:
    """Hash every parameter and buffer, bit for bit, and the settings that decide what a cell means."""
    digest = hashlib.sha256(json.dumps(settings).encode())
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, torch.Tensor):
            digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class CellStore:
    """Measured cells in memory, and on disk where a path is given.

    path: a journal that other processes may append to meanwhile; None keeps the cells in memory only.
    mark: the fingerprint of what is measured; None takes the file's own, which must exist.
    cells: what was measured. examples: of the cells that stopped early, how many were seen; an exact cell takes the
        place of such a one.
    Raises FileError as `prunus.journal.Journal` does, and when the file holds dense metrics that disagree.
    """

    def __init__(self, path: str | os.PathLike[str] | None, mark: str | None) -> None:
        self.cells: Cells = {}
        self.examples: dict[tuple[str, float], int] = {}
        words = {"holds": "cells of a sensitivity analysis", "of": "model, granularity or criterion"}
        self._journal = None if path is None else Journal(path, FORMAT, mark, **words)
        self.mark = (mark or "") if self._journal is None else self._journal.mark
        self.refresh()

    def refresh(self) -> None:
        """Read what was appended since, by whomever."""
        for number, record in () if self._journal is None else self._journal.news():
            self._read(number, record)

    def add(self, target: str, level: float, metrics: Mapping[str, float], examples: int | None = None) -> None:
        """Keep one cell; it is on disk when this returns."""
        self._keep((target, level), dict(metrics), examples)
        if self._journal is not None:
            finite = {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
            early = {} if examples is None else {"approximate": True, "examples": examples}
            self._journal.append({"target": target, "level": level, "metrics": finite, **early})

    def check_dense(self, metrics: Mapping[str, float]) -> None:
        """Refuse to go on where the dense model now has other metrics than those in the file."""
        known = self.cells.get(("", 0.0))
        if known is not None:
            _check_same_data("the store" if self._journal is None else f"{self._journal.path}", known, metrics)

    def _keep(self, key: tuple[str, float], metrics: Metrics, examples: int | None) -> None:
        if key == ("", 0.0):
            self.check_dense(metrics)
        if examples is not None and key in self.cells and key not in self.examples:
            return
        self.cells[key] = metrics
        self.examples.pop(key, None)
        if examples is not None:
            self.examples[key] = examples

    def _read(self, number: int, record: Mapping[str, Any]) -> None:
        try:
            metrics = {str(name): float(value) for name, value in record["metrics"].items()}
            key = (str(record["target"]), float(record["level"]))
            examples = int(record["examples"]) if record.get("approximate") else None
        except (KeyError, TypeError, ValueError, AttributeError):
            where = "" if self._journal is None else f"{self._journal.path} "
            raise FileError(f"{where}line {number} is no cell; delete the file to start anew") from None
        self._keep(key, metrics, examples)


def merge(stores: Sequence[str | os.PathLike[str]], into: str | os.PathLike[str]) -> int:
    """Write the union of stores, measured in parts on several machines, to one file, which may be one of them.

    Returns the number of cells. An exact cell comes before one that stopped early.
    Raises FileError when they are not of the same model, settings and data, InputError when there are none.
    """
    if not stores:
        raise InputError("no stores are named; name at least one file that an analysis wrote")
    union = CellStore(None, None)
    for path in stores:
        part = CellStore(path, None)
        if union.mark and part.mark != union.mark:
            raise FileError(f"{path} was measured on another model, granularity or criterion than {stores[0]}")
        union.mark = part.mark
        if ("", 0.0) in part.cells and ("", 0.0) in union.cells:
            _check_same_data(f"{path}", union.cells["", 0.0], part.cells["", 0.0])
        for key, metrics in part.cells.items():
            if key not in union.cells or (key in union.examples and key not in part.examples):
                union._keep(key, metrics, part.examples.get(key))
    path = Path(into)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        fresh.unlink(missing_ok=True)
        written = CellStore(fresh, union.mark)
        for (target, level), metrics in union.cells.items():
            written.add(target, level, metrics, union.examples.get((target, level)))
        os.replace(fresh, path)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror}; name another file") from None
    return len(union.cells)


def _check_same_data(place: str, known: Metrics, now: Mapping[str, float]) -> None:
    """Compare the dense model's metrics there and here, but for what another processor's rounding explains."""
    for name in {**known, **now}:
        there, here = known.get(name), now.get(name)
        is_same = None not in (there, here) and math.isclose(there, here, rel_tol=1e-3, abs_tol=1e-3)  # type: ignore[arg-type]
        both_nan = isinstance(there, float) and isinstance(here, float) and math.isnan(there) and math.isnan(here)
        if not is_same and not both_nan:
            raise FileError(
                f"{place} was measured on other data: the dense model's {name} is {there} there and {here} here; "
                "name another file, or delete it to measure anew"
            )
