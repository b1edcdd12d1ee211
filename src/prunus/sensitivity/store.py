"""The file of measured cells: one JSON line each, which several processes may append to at the same time."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from prunus.errors import FileError, InputError

try:
    import fcntl
except ImportError:  # a system without it: one process per file
    fcntl = None  # type: ignore[assignment]

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

    path: JSON lines, a header first; None keeps the cells in memory only. Other processes may append meanwhile:
        every line is one write at the end of the file, under a lock where the system has one.
    mark: the fingerprint of what is measured; None takes the file's own, which must exist.
    cells: what was measured. examples: of the cells that stopped early, how many were seen; an exact cell takes the
        place of such a one.
    Raises FileError when the file is foreign, damaged before its last line, of another model or setting, holds
    dense metrics that disagree, or cannot be written. A torn last line, left by a killed run, is dropped.
    """

    def __init__(self, path: str | os.PathLike[str] | None, mark: str | None) -> None:
        self.path = None if path is None else Path(path)
        self.cells: Cells = {}
        self.examples: dict[tuple[str, float], int] = {}
        self.mark = mark or ""
        self._seen = 0
        self._lines = 0
        if self.path is None:
            return
        if mark is None and not self.path.is_file():
            raise FileError(f"{self.path} is no file; name a store that an analysis wrote")
        try:
            with _locked(self.path) as file:
                _drop_torn_line(file, self.path, self._header())
                if mark is not None and not os.fstat(file.fileno()).st_size:
                    _write(file, self._header())
        except OSError as error:
            raise FileError(f"{self.path} cannot be read and written: {error.strerror}; name another store") from None
        if mark is None:
            first = self.path.read_bytes().split(b"\n", 1)[0].decode("utf-8", errors="replace")
            self.mark = str(_parsed(self.path, 1, first).get("fingerprint", ""))
        self.refresh()

    def refresh(self) -> None:
        """Read what was appended since, by whomever."""
        if self.path is None:
            return
        with self.path.open("rb") as file:
            file.seek(self._seen)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._seen += len(whole)
        for line in whole.decode("utf-8", errors="replace").splitlines():
            self._lines += 1
            self._read(self._lines, _parsed(self.path, self._lines, line))

    def add(self, target: str, level: float, metrics: Mapping[str, float], examples: int | None = None) -> None:
        """Keep one cell; it is on disk when this returns."""
        self._keep((target, level), dict(metrics), examples)
        if self.path is not None:
            finite = {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
            early = {} if examples is None else {"approximate": True, "examples": examples}
            with _locked(self.path) as file:
                _write(file, json.dumps({"target": target, "level": level, "metrics": finite, **early}))

    def check_dense(self, metrics: Mapping[str, float]) -> None:
        """Refuse to go on where the dense model now has other metrics than those in the file."""
        known = self.cells.get(("", 0.0))
        if known is not None:
            _check_same_data(f"{self.path}", known, metrics)

    def _header(self) -> str:
        return json.dumps({"format": FORMAT, "fingerprint": self.mark})

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
        if number == 1 or "format" in record:
            _check_header(self.path, record, self.mark)
            return
        try:
            metrics = {str(name): float(value) for name, value in record["metrics"].items()}
            key = (str(record["target"]), float(record["level"]))
            examples = int(record["examples"]) if record.get("approximate") else None
        except (KeyError, TypeError, ValueError, AttributeError):
            raise FileError(f"{self.path} line {number} is no cell; delete the file to start anew") from None
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


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Open a file for appending while no other process writes to it."""
    with path.open("ab", buffering=0) as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file is closed
        yield file


def _write(file: BinaryIO, line: str) -> None:
    file.write(line.encode() + b"\n")
    os.fsync(file.fileno())


def _drop_torn_line(file: BinaryIO, path: Path, header: str) -> None:
    """Cut a torn last line off the file; nothing is cut off a foreign one."""
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    torn = raw[len(whole) :]
    if not whole and torn and not header.encode().startswith(torn):
        raise FileError(f"{path} is no store of sensitivity cells; name another file")
    if torn:
        os.truncate(path, len(whole))


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


def _parsed(path: Path | None, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise FileError(f"{path} line {number} is no JSON record; name another file, or delete it to start anew")
    return record


def _check_header(path: Path | None, record: Mapping[str, Any], mark: str) -> None:
    if record.get("format") != FORMAT:
        raise FileError(f"{path} holds {record.get('format')!r}, not {FORMAT!r}; name another file")
    if record.get("fingerprint") != mark:
        raise FileError(
            f"{path} was measured on another model, granularity or criterion; name another file, "
            "or delete it to measure anew"
        )
