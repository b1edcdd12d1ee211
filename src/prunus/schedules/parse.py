"""A schedule as YAML gives it: policies, stop, guard. Every error names the file and the path inside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prunus.errors import InputError, NameNotFound, RecipeError
from prunus.schedules.guard import AccuracyGuard, guard
from prunus.schedules.policy import Policy, policy
from prunus.schedules.stop import Stop, stop
from prunus.schedules.threshold import MagnitudeParameterPruner
from prunus.yaml_source import read_source

_KEYS = ("version", "policies", "stop", "guard")
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Settings:
    """What a schedule file says."""

    policies: tuple[Policy | MagnitudeParameterPruner, ...]
    stop: tuple[Stop, ...] = ()
    guard: AccuracyGuard | None = None


def read_settings(path: str | Path) -> Settings:
    """Read a YAML file with `policies: [...]`, and optionally `stop`, `guard` and `version: 1`.

    Raises RecipeError where it cannot be read, or for whatever is wrong in it.
    """
    return parse_settings(read_source(Path(path)).values, where=str(path))


def parse_settings(values: Any, *, where: str = "schedule") -> Settings:
    """Turn a mapping with `policies` into objects.

    where: the file, or whatever else stands before the path inside it in an error.
    Raises RecipeError.
    """
    if not isinstance(values, Mapping):
        raise RecipeError(f"{where} holds {type(values).__name__}; a mapping with `policies:` is wanted")
    for key in values:
        _at(where, "", lambda key=key: _known(str(key)))  # type: ignore[misc]
    if values.get("version", 1) != 1:
        raise RecipeError(f"{where}: version is {values['version']!r}; this Prunus reads version 1, upgrade it")
    return Settings(
        policies=tuple(_each(where, "policies", values.get("policies"), policy)),
        stop=tuple(_each(where, "stop", values["stop"], stop)) if values.get("stop") else (),
        guard=_at(where, "guard", lambda: guard(values["guard"])) if values.get("guard") is not None else None,
    )


def _known(key: str) -> None:
    if key not in _KEYS:
        raise NameNotFound.of("key", key, _KEYS)


def _each(where: str, key: str, values: Any, read: Callable[[Any], _Read]) -> list[_Read]:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise RecipeError(f"{where}: {key} is {values!r}; a list with at least one entry is wanted")
    return [_at(where, f"{key}[{i}]", lambda value=value: read(value)) for i, value in enumerate(values)]  # type: ignore[misc]


def _at(where: str, path: str, read: Callable[[], _Read]) -> _Read:
    """Put file and path before what is wrong."""
    try:
        return read()
    except (InputError, TypeError) as error:
        raise RecipeError(f"{where}: {path + ': ' if path else ''}{error}") from error
