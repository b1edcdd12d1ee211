"""The folder of a run: what is finished lies there, and nothing of it is ever half written.

recipe.yaml      what was asked
log.jsonl        one line per finished epoch, stage and file
state/           run.json (whose run this is), one checkpoint per stage, facts.json when all is done
sensitivity.jsonl, model.prunus, report.json, report.html
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prunus._version import __version__
from prunus.errors import FileError, InputError
from prunus.training.checkpoint import load_checkpoint, save_checkpoint
from prunus.training.files import append_line, read_json, read_lines, write_atomically, write_json, write_lines

SCHEMA = "prunus-run/1"
OURS = ("state", "recipe.yaml", "log.jsonl", "sensitivity.jsonl", "sensitivity.svg", "report.json", "report.html")


class RunFolder:
    """A folder that belongs to one recipe. Make it with `open_folder`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log_file = root / "log.jsonl"
        self._state = root / "state"

    def load(self, stage: str) -> Any:
        """What the stage's last finished epoch left, or None; raises FileError when it is damaged."""
        path = self._checkpoint(stage)
        return load_checkpoint(path) if path.exists() else None

    def save(self, stage: str, content: Mapping[str, Any]) -> None:
        """Replace the stage's checkpoint, atomically."""
        save_checkpoint(self._checkpoint(stage), dict(content))

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append a line to the log unless it has it: a killed run repeats the work of its last line only."""
        known = [line for line in read_lines(self.log_file) if _same_work(line, entry)]
        if not known:
            append_line(self.log_file, dict(entry))

    def facts(self) -> dict[str, Any] | None:
        """The facts of a finished run, or None."""
        path = self._state / "facts.json"
        return dict(read_json(path)) if path.exists() else None

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Mark the run as finished."""
        write_json(self._state / "facts.json", dict(facts))

    def path(self, name: str) -> Path:
        """A file of the run."""
        return self.root / name

    def _checkpoint(self, stage: str) -> Path:
        return self._state / f"{stage}.safetensors"


def open_folder(
    root: Path, recipe: Mapping[str, Any], text: str, *, fresh: bool = False, resume: bool = False
) -> RunFolder:
    """Claim `root` for a recipe, or go on with the run of the same recipe that is there.

    recipe: plain values; `out` and `name` do not count. text: what is written as recipe.yaml.
    fresh: remove the run that is there. resume: there must be one.
    Raises FileError when the folder cannot be written, InputError when it holds something else.
    """
    folder = RunFolder(root)
    found = _found_run(root)
    if resume and found is None:
        raise InputError(f"there is no run to resume in {root}; leave --resume away, or give its folder with --out")
    _check_writable(root)
    if found is not None and fresh:
        _remove_run(root, found)
        found = None
    if found is None:
        _claim(folder, recipe, text)
    else:
        _check_same(root, found, recipe)
        _repair_log(folder)
    return folder


def _found_run(root: Path) -> dict[str, Any] | None:
    path = root / "state" / "run.json"
    if not path.exists():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise FileError(f"{path} is not of this version of Prunus ({SCHEMA}); use another folder or --fresh")
    return found


def _claim(folder: RunFolder, recipe: Mapping[str, Any], text: str) -> None:
    """Make the folder ours; run.json comes last, so that a kill in between leaves a folder without a run."""
    root = folder.root
    foreign = [name for name in (*OURS, recipe["finish"]["save"]) if (root / name).exists()]
    if foreign and not _is_unfinished_claim(root):
        raise InputError(f"{root} holds {', '.join(foreign)}, which no run of Prunus left; use another folder")
    (root / "state").mkdir(parents=True, exist_ok=True)
    write_atomically(root / "recipe.yaml", text.encode())
    write_json(root / "state" / "run.json", {"schema": SCHEMA, "prunus": __version__, "recipe": dict(recipe)})


def _is_unfinished_claim(root: Path) -> bool:
    state = root / "state"
    return state.is_dir() and not any(state.glob("*.safetensors")) and not (root / "log.jsonl").exists()


def _check_same(root: Path, found: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    for path, there, here in differences(found["recipe"], recipe):
        if path not in ("out", "name"):
            raise InputError(
                f"{root} holds a run of another recipe: {path} is {there!r} there and {here!r} here; "
                "use another folder (--out) or start anew with --fresh"
            )


def differences(there: Any, here: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (path, there, here) for every value in which two plain values differ."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in {**there, **here}:
            yield from differences(there.get(key), here.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for index, (a, b) in enumerate(zip(there, here, strict=True)):
            yield from differences(a, b, f"{path}[{index}]")
    elif there != here:
        yield path, there, here


def _remove_run(root: Path, found: Mapping[str, Any]) -> None:
    """Remove what a run left, and nothing else. run.json goes last: a kill in between leaves it ours."""
    saved = str(found["recipe"].get("finish", {}).get("save", "model.prunus"))
    for name in (*OURS[1:], saved, f"{Path(saved).stem}.onnx"):
        (root / name).unlink(missing_ok=True)
    shutil.rmtree(root / "state")


def _check_writable(root: Path) -> None:
    """Find out before anything runs."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=root, prefix=".prunus-"):
            pass
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise FileError(f"cannot write into the out folder {root}: {reason}; choose another with --out") from error


def _repair_log(folder: RunFolder) -> None:
    """Cut a line that a kill broke."""
    if folder.log_file.exists():
        lines = read_lines(folder.log_file)
        if folder.log_file.read_bytes().count(b"\n") != len(lines):
            write_lines(folder.log_file, lines)


def _same_work(line: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    return all(line.get(key) == entry.get(key) for key in ("stage", "epoch"))


def leave_if_empty(root: Path) -> None:
    """Remove a folder that was made for nothing."""
    if root.is_dir() and not os.listdir(root):
        root.rmdir()
