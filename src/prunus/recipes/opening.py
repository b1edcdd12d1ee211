"""A recipe with what belongs to it: the text that is kept, and the folders its names are looked for in."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prunus.errors import FileError
from prunus.recipes.folder import RunFolder
from prunus.recipes.load import check
from prunus.recipes.overrides import override
from prunus.recipes.schema import Recipe
from prunus.yaml_source import parse_source, read_source


@dataclass(frozen=True)
class Opened:
    """A checked recipe, ready to run.

    text: what the run keeps as recipe.yaml. folders: where modules and files of the user are looked for.
    """

    recipe: Recipe
    text: str
    folders: tuple[Path, ...]

    @property
    def values(self) -> dict[str, Any]:
        """What the recipe says, without defaults."""
        return parse_source(self.text, "recipe").values


def open_recipe(path: Path | str, settings: Sequence[str] = (), *, out: str | None = None) -> Opened:
    """Read and check a recipe; with overrides, what is kept of it is the values in force.

    Raises RecipeError as `load_recipe` does.
    """
    path = Path(path)
    source = override(read_source(path), settings)
    if out is not None:
        source.values["out"] = str(out)
    recipe = check(source)
    changed = bool(settings) or out is not None
    text = as_text(source.values, path, settings) if changed else path.read_text(encoding="utf-8")
    return Opened(recipe, text, (path.resolve().parent, Path.cwd()))


def as_text(values: dict[str, Any], path: Path, settings: Sequence[str]) -> str:
    """A recipe as YAML, with a line that says where it came from."""
    words = "".join(f" --set {setting}" for setting in settings)
    return f"# {path.name}{words}\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def moved(values: Mapping[str, Any], folders: Sequence[Path], place: Path) -> dict[str, Any]:
    """Return a recipe's values as a file in another folder says them: the user's files are named from there.

    folders: where the files are looked for now.
    """

    def seen(name: Any) -> Any:
        if isinstance(name, dict):
            return {**name, "factory": seen(name["factory"])}
        return _seen_from(place, name, folders) if isinstance(name, str) else name

    found = {key: seen(values[key]) for key in ("model", "data", "loss") if key in values}
    if "metrics" in values:
        found["metrics"] = [seen(name) for name in values["metrics"]]
    return {**values, **found}


def _seen_from(place: Path, name: str, folders: Sequence[Path]) -> str:
    """Spell `file.py:function` as it is found from a folder; other names stay."""
    file, colon, function = name.rpartition(":")
    found = next((folder / file for folder in folders if (folder / file).is_file()), None)
    if not file.endswith(".py") or found is None or Path(file).is_absolute():
        return name
    try:
        return f"{Path(os.path.relpath(found.resolve(), place.resolve())).as_posix()}{colon}{function}"
    except ValueError:  # another drive
        return f"{found.resolve().as_posix()}{colon}{function}"


def read_facts(folder: Path) -> dict[str, Any]:
    """The facts of a finished run; raises FileError where there is none."""
    facts = RunFolder(folder).facts()
    if facts is None:
        raise FileError(f"there is no finished run in {folder}; finish it with `prunus run` or `prunus quickstart`")
    return facts
