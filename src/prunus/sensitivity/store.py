"""The file of measured cells: one JSON line each, on disk before the next is begun."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.errors import FileError

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

    path: JSON lines, a header first; None keeps the cells in memory only.
    mark: the fingerprint of what is measured.
    Raises FileError when the file is foreign, damaged before its last line, of another model or setting, or
    cannot be written. A torn last line, left by a killed run, is dropped.
    """

    def __init__(self, path: str | os.PathLike[str] | None, mark: str) -> None:
        self.path = None if path is None else Path(path)
        self.cells: Cells = {}
        if self.path is None:
            return
        header = {"format": FORMAT, "fingerprint": mark}
        try:
            lines = _whole_lines(self.path, json.dumps(header))
            if not lines:
                self._append(header)
        except OSError as error:
            raise FileError(f"{self.path} cannot be read and written: {error.strerror}; name another store") from None
        self._read(lines, mark)

    def add(self, target: str, level: float, metrics: Mapping[str, float]) -> None:
        """Keep one cell; it is on disk when this returns."""
        self.cells[target, level] = dict(metrics)
        if self.path is not None:
            finite = {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
            self._append({"target": target, "level": level, "metrics": finite})

    def _append(self, record: Mapping[str, Any]) -> None:
        assert self.path is not None
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self, lines: list[str], mark: str) -> None:
        for number, line in enumerate(lines, start=1):
            record = _parsed(self.path, number, line)
            if number == 1:
                _check_header(self.path, record, mark)
                continue
            try:
                metrics = {str(name): float(value) for name, value in record["metrics"].items()}
                self.cells[str(record["target"]), float(record["level"])] = metrics
            except (KeyError, TypeError, ValueError, AttributeError):
                raise FileError(f"{self.path} line {number} is no cell; delete the file to start anew") from None


def _whole_lines(path: Path, header: str) -> list[str]:
    """Return the complete lines and cut a torn last one off the file; nothing is cut off a foreign file."""
    raw = path.read_bytes() if path.exists() else b""
    whole = raw[: raw.rfind(b"\n") + 1]
    torn = raw[len(whole) :]
    if not whole and torn and not header.encode().startswith(torn):
        raise FileError(f"{path} is no store of sensitivity cells; name another file")
    if torn:
        os.truncate(path, len(whole))
    return whole.decode("utf-8", errors="replace").splitlines()


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
