"""Segments that were timed, in memory and on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.runtimes.device import Device
from prunus.runtimes.segments import Built

Progress = Callable[[int, int], None]
_ROUNDS, _AT_ONCE, _SECONDS = 30, 12, 2.0


class Lookup:
    """Segments' latencies in units of a convolution that is timed with them, turn by turn, less what a call costs.

    So a machine that is busier today than when the rest was timed does not shift what is compared. Kept under
    `$XDG_CACHE_HOME/prunus/latency` (`~/.cache`), a file for each machine, runtime, version and number of threads.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._known: dict[str, float] = {}
        mark = json.dumps(device.holds_for, sort_keys=True)
        self._path = _folder() / f"{device.name}-{hashlib.sha256(mark.encode()).hexdigest()[:16]}.jsonl"
        self._read(mark)
        self._mark = mark

    @property
    def num_known(self) -> int:
        """How many are known, those of other models too."""
        return len(self._known)

    def all(self, wanted: Iterable[Built], progress: Progress | None = None) -> dict[str, float]:
        """Return the latency of each by its signature; those that are not known are timed first.

        progress: called with (timed, of how many).
        """
        missing = list({built.signature: built for built in wanted if built.signature not in self._known}.values())
        for start in range(0, len(missing), _AT_ONCE):
            self._time(missing[start : start + _AT_ONCE])
            if progress is not None:
                progress(min(start + _AT_ONCE, len(missing)), len(missing))
        return self._known

    def _time(self, group: list[Built]) -> None:
        x = torch.randn(1, 32, 32, 32)
        calls = {
            "unit": self._device.prepare(_Unit(), (x,)),
            "call": self._device.prepare(_Call(), (x[:, :1, :1, :1],)),
        }
        for built in group:
            module, inputs = built.module()
            calls[built.signature] = self._device.prepare(module, inputs)
        measured = self._device.timed(calls, repeats=_ROUNDS, seconds=_SECONDS)
        call = 1 / measured["call"].ratio_to_first
        found = {b.signature: max(0.0, 1 / measured[b.signature].ratio_to_first - call) / (1 - call) for b in group}
        self._known.update(found)
        self._append([{"segment": name, "units": value} for name, value in found.items()])

    def _read(self, mark: str) -> None:
        """Take over what is on disk; a torn line, of a run that was killed, is timed again."""
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except OSError:
            lines = []
        if not lines or lines[0] != mark:
            return
        for line in lines[1:]:
            try:
                entry = json.loads(line)
                self._known[str(entry["segment"])] = float(entry["units"])
            except (ValueError, KeyError, TypeError):
                continue

    def _append(self, entries: list[dict[str, Any]]) -> None:
        """Keep entries on disk; where nothing can be written they stay in memory."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = not self._path.exists()
            with self._path.open("a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in ([self._mark] if fresh else [])))
                file.write("".join(f"{json.dumps(entry)}\n" for entry in entries))
        except OSError:
            return


class _Unit(nn.Conv2d):
    """The convolution whose time is one unit: 9 million multiply-adds, well above the cost of a call."""

    def __init__(self) -> None:
        super().__init__(32, 32, 3, padding=1, bias=False)


class _Call(nn.Module):
    """Next to nothing: what a call costs by itself, and a whole model pays once."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -x


def _folder() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "prunus" / "latency"
