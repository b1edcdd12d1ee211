"""`--set prune.policies[0].schedule.final=0.7`: one value of a recipe, from the command line."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from prunus.errors import RecipeError
from prunus.yaml_source import Path_, Source, parse_value, spell

_PART = re.compile(r"\[(\d+)\]|([^.\[\]]+)")


def override(source: Source, settings: Sequence[str]) -> Source:
    """The source with each `path=value` in force; the value is read as YAML.

    A list is indexed as `policies[0]` or `policies.0`, and keeps its length. Keys may be new: the schema judges
    them. Raises RecipeError that names the setting.
    """
    values = copy.deepcopy(source.values)
    given = dict(source.settings)
    for setting in settings:
        path, value = _parse(setting)
        _put(values, path, value, setting)
        given[path] = setting
    return replace(source, values=values, settings=given)


def _parse(setting: str) -> tuple[Path_, Any]:
    name, equals, text = setting.partition("=")
    parts = _PART.findall(name.strip())
    if not equals or not parts:
        raise RecipeError(f"--set {setting}: want path=value, such as prune.epochs=3")
    path = tuple(int(index) if index else word for index, word in parts)
    return path, parse_value(text, f"--set {setting}")


def _put(values: Any, path: Path_, value: Any, setting: str) -> None:
    place = values
    for depth, part in enumerate(path[:-1]):
        place = _enter(place, part, path[:depth], setting)
    last = path[-1]
    if isinstance(place, list):
        place[_index(place, last, path[:-1], setting)] = value
    elif isinstance(place, dict):
        place[str(last)] = value
    else:
        raise RecipeError(f"--set {setting}: {spell(path[:-1])} is {place!r}, which has no parts")


def _enter(place: Any, part: str | int, path: Path_, setting: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, part, path, setting)]
    if not isinstance(place, dict):
        raise RecipeError(f"--set {setting}: {spell(path)} is {place!r}, which has no parts")
    if place.get(str(part)) is None:
        place[str(part)] = {}
    return place[str(part)]


def _index(place: list[Any], part: str | int, path: Path_, setting: str) -> int:
    if not str(part).isdecimal() or int(part) >= len(place):
        raise RecipeError(
            f"--set {setting}: {spell(path)} is a list of {len(place)}; want an index below it, got {part}"
        )
    return int(part)
