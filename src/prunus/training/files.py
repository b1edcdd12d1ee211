"""Files that are either whole or absent, whenever the power goes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prunus.errors import FileError


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds the old bytes or all the new ones, never a part.

    Raises FileError, naming the path, when the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise FileError(f"cannot write {path}: {_reason(error)}; choose another folder or free it") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write plain values as indented JSON, atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON; raises FileError, naming the path, when it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise FileError(f"cannot read {path}: {_reason(error)}") from error
    except ValueError as error:
        raise FileError(f"{path} is damaged: it is not JSON ({error}); delete it and run again") from error


def append_line(path: Path, entry: dict[str, Any]) -> None:
    """Append one JSON object as one line, and have it on the disk before returning."""
    line = json.dumps(entry, ensure_ascii=False) + "\n"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise FileError(f"cannot write {path}: {_reason(error)}; free the disk and run again") from error


def write_lines(path: Path, entries: Iterable[dict[str, Any]]) -> None:
    """Replace a file of JSON lines, atomically."""
    lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    write_atomically(path, "".join(lines).encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines up to the first broken one: a kill may have cut the last."""
    if not path.exists():
        return []
    entries: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries


def _sync_folder(folder: Path) -> None:
    """A rename is durable only when its folder is; Windows has no such call."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
