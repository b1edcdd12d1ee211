"""The folder of a run: what is finished lies there, and nothing of it is ever half written.

recipe.yaml      what was asked
log.jsonl        one line per finished epoch, stage and file
state/           run.json (whose run this is), one checkpoint per stage, facts.json when all is done
sensitivity.jsonl and what is made of it, model.prunus, report.json, report.html
"""

from __future__ import annotations

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
OURS = (
    *("state", "recipe.yaml", "log.jsonl", "report.json", "report.html"),
    *(f"sensitivity.{ending}" for ending in ("jsonl", "json", "csv", "svg", "slopes.svg", "heat.svg", "html")),
)


class RunFolder:
    """A folder that belongs to one recipe. Make it with `open_folder`."""

    def __init__(self, root: Path, earlier: Mapping[str, Any] | None = None) -> None:
        self.root = root
        self.log_file = root / "log.jsonl"
        self.earlier = earlier
        self._state = root / "state"

    def claim(self, recipe: Mapping[str, Any], text: str) -> None:
        """Make the folder this recipe's, or go on; run.json comes last, so that a kill leaves no half claim.

        text: what is written as recipe.yaml. A run that the caller does not want to go on with is removed.
        """
        if self.earlier is not None:
            _repair_log(self)
            return
        unwanted = found_run(self.root)
        if unwanted is not None:
            _remove_run(self.root, unwanted)
        self._state.mkdir(parents=True, exist_ok=True)
        write_atomically(self.root / "recipe.yaml", text.encode())
        write_json(self._state / "run.json", {"schema": SCHEMA, "prunus": __version__, "recipe": dict(recipe)})

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


def open_folder(root: Path, recipe: Mapping[str, Any], *, fresh: bool = False, resume: bool = False) -> RunFolder:
    """Look at `root`: may this recipe run there, or go on there? Nothing is written; `RunFolder.claim` does that.

    recipe: plain values; `out` and `name` do not count.
    fresh: an earlier run will be removed. resume: there must be one.
    Raises FileError when the folder cannot be written, InputError when it holds something else.
    """
    earlier = found_run(root)
    if resume and earlier is None:
        raise InputError(f"there is no run to resume in {root}; leave --resume away, or give its folder with --out")
    if earlier is None:
        _check_free(root, recipe)
    elif not fresh:
        _check_same(root, earlier["recipe"], recipe)
    _check_writable(root)
    return RunFolder(root, None if fresh else earlier)


def found_run(root: Path) -> dict[str, Any] | None:
    """Whose run is in the folder, as run.json says; raises FileError when it is damaged or of another version."""
    path = root / "state" / "run.json"
    if not path.exists():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise FileError(f"{path} is not of this version of Prunus ({SCHEMA}); use another folder or --fresh")
    return found


def _check_free(root: Path, recipe: Mapping[str, Any]) -> None:
    foreign = [name for name in (*OURS, *_saved(recipe)) if (root / name).exists()]
    if foreign and not _is_unfinished_claim(root):
        raise InputError(f"{root} holds {', '.join(foreign)}, which no run of Prunus left; use another folder")


def _is_unfinished_claim(root: Path) -> bool:
    state = root / "state"
    return state.is_dir() and not any(state.glob("*.safetensors")) and not (root / "log.jsonl").exists()


def _check_same(root: Path, earlier: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    for path, there, here in differences(earlier, recipe):
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
    others = (path.name for path in root.glob("sensitivity-*.jsonl"))  # cells of other granularities and criteria
    for name in (*OURS[1:], *_saved(found["recipe"]), *others):
        (root / name).unlink(missing_ok=True)
    shutil.rmtree(root / "state")


def _saved(recipe: Mapping[str, Any]) -> tuple[str, str]:
    """The model's file, and its export's."""
    name = str(recipe["finish"]["save"])
    return name, f"{Path(name).stem}.onnx"


def _check_writable(root: Path) -> None:
    """Find out before anything runs; folders that were made for it are removed again."""
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=root, prefix=".prunus-"):
            pass
        for folder in missing:
            folder.rmdir()
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise FileError(f"cannot write into the out folder {root}: {reason}; choose another with --out") from error


def _repair_log(folder: RunFolder) -> None:
    """Cut a line that a kill broke: what is appended behind it would be lost with it."""
    if folder.log_file.exists():
        lines = read_lines(folder.log_file)
        written = folder.log_file.read_bytes()
        if not written.endswith(b"\n") or written.count(b"\n") != len(lines):
            write_lines(folder.log_file, lines)


def _same_work(line: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    return all(line.get(key) == entry.get(key) for key in ("stage", "epoch"))
