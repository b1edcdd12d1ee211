"""A file of JSON lines under a header: what was measured is on disk at once, and survives a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from prunus.errors import FileError

try:
    import fcntl
except ImportError:  # a system without it: one process per file
    fcntl = None  # type: ignore[assignment]

_ANEW = "name another file, or delete it (--fresh) to start anew"


class Journal:
    """Records that several processes may append at the same time; a torn last line, left by a kill, is dropped.

    Every record is one write at the end of the file, under a lock where the system has one.
    form: the header's word for what the records are. mark: the fingerprint of what they were measured on; None takes
    the file's own, which must exist. holds, of: what the records and the mark are called in messages.
    Raises FileError when the file is foreign, of another mark, or cannot be read and written; nothing is cut off a
    foreign one.
    """

    def __init__(self, path: str | os.PathLike[str], form: str, mark: str | None, *, holds: str, of: str) -> None:
        self.path = Path(path)
        self._form, self._holds, self._of = form, holds, of
        self._bytes = self._lines = 0
        if mark is None and not self.path.is_file():
            raise FileError(f"{self.path} is no file; name one that holds {holds}")
        try:
            with _locked(self.path) as file:
                self._drop_torn_line(file)
                self.mark = self._found() if mark is None else mark
                if not os.fstat(file.fileno()).st_size:
                    _write(file, self._header())
        except OSError as error:
            raise FileError(f"{self.path} cannot be read and written: {error.strerror}; name another file") from None

    def append(self, record: Mapping[str, Any]) -> None:
        """Keep a record; it is on disk when this returns. Raises FileError when it cannot be."""
        try:
            with _locked(self.path) as file:
                _write(file, dict(record))
        except OSError as error:
            raise FileError(f"{self.path} cannot be written: {error.strerror}; free the disk and run again") from None

    def news(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (number of the line, record) for what was appended since the last call, by whomever.

        Raises FileError at a damaged line, and at a header of something else: journals may have been joined.
        """
        with self.path.open("rb") as file:
            file.seek(self._bytes)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._bytes += len(whole)
        for line in whole.decode("utf-8", errors="replace").splitlines():
            self._lines += 1
            record = self._parsed(self._lines, line)
            if self._lines == 1 or "format" in record:
                self._check_header(record)
            else:
                yield self._lines, record

    def _header(self) -> dict[str, str]:
        return {"format": self._form, "fingerprint": self.mark}

    def _found(self) -> str:
        """The mark in the file."""
        first = self.path.read_bytes().split(b"\n", 1)[0].decode("utf-8", errors="replace")
        return str(self._parsed(1, first).get("fingerprint", ""))

    def _drop_torn_line(self, file: BinaryIO) -> None:
        raw = self.path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        torn = raw[len(whole) :]
        start = json.dumps({"format": self._form}).encode()[:-1]
        if raw and not raw.startswith(start[: len(raw)]):
            raise FileError(f"{self.path} holds no {self._holds}; name another file")
        if torn:
            os.truncate(file.fileno(), len(whole))

    def _parsed(self, number: int, line: str) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise FileError(f"{self.path} line {number} is damaged; {_ANEW}")
        return record

    def _check_header(self, record: Mapping[str, Any]) -> None:
        if record.get("format") != self._form:
            raise FileError(f"{self.path} holds {record.get('format')!r}, not {self._form!r}; name another file")
        if record.get("fingerprint") != self.mark:
            raise FileError(f"{self.path} is of another {self._of}; {_ANEW}")


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Open a file for appending while no other process writes to it."""
    with path.open("ab", buffering=0) as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file is closed
        yield file


def _write(file: BinaryIO, record: Mapping[str, Any]) -> None:
    file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
    os.fsync(file.fileno())
