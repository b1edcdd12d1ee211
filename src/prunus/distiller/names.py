"""Parameters by the names that Distiller's schedules give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import nn

from prunus.axes import unwrapped
from prunus.errors import InputError, NameNotFound

_Value = TypeVar("_Value")


def as_names(weights: str | Sequence[str]) -> tuple[str, ...]:
    """Return names as a tuple; a bare string is one name. Raises InputError where there is none."""
    names = (weights,) if isinstance(weights, str) else tuple(weights)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"weights are {weights!r}; at least one parameter's name is wanted")
    return names


def find_names(model: nn.Module, written: Sequence[str]) -> list[str]:
    """Return the model's own names: as written, or without the `module` segments that DataParallel puts in.

    A pattern stays one. Raises NameNotFound with near names.
    """
    known = [name for name, _ in unwrapped(model).named_parameters(remove_duplicate=False)]
    plain = {_plain(name): name for name in known}
    return list(dict.fromkeys(_find(name, known, plain) for name in written))


def by_names(model: nn.Module, given: Mapping[str, _Value]) -> dict[str, _Value]:
    """Return the same numbers under the model's own names, the default `*` last."""
    found = {find_names(model, [name])[0]: value for name, value in given.items() if name != "*"}
    return found | ({"*": given["*"]} if "*" in given else {})


def _find(written: str, known: Sequence[str], plain: Mapping[str, str]) -> str:
    if written in known or any(fnmatchcase(name, written) for name in known):
        return written
    short = _plain(written)
    if short in plain:
        return plain[short]
    if any(fnmatchcase(name, short) for name in known):
        return short
    raise NameNotFound.of("parameter", short, known)


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "module")
