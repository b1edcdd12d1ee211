"""Numbers given by patterns over the names of targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType

from prunus.allocation.base import ScoredTarget
from prunus.errors import InputError, NameNotFound


def filled(name: str, values: dict[str, float]) -> Mapping[str, float]:
    """Return the values for reading only; raises InputError where there are none."""
    if not values:
        raise InputError(f"allocation {name} is empty; name at least one pattern with its number")
    return MappingProxyType(values)


def matched(given: Mapping[str, float], targets: Mapping[str, ScoredTarget]) -> dict[str, float]:
    """Return the number of the first matching pattern per target; targets without one are left out."""
    found: dict[str, float] = {}
    used = set()
    for name, target in targets.items():
        hits = [p for p in given if _names_it(p, (name, *target.names))]
        used.update(hits)
        if hits:
            found[name] = given[hits[0]]
    for pattern in given:
        if pattern not in used and pattern != "*":
            raise NameNotFound.of("target", pattern, [a for n, t in targets.items() for a in (n, *t.names)])
    return found


def _names_it(pattern: str, names: Iterable[str]) -> bool:
    """Match a name as written before it is read as a pattern: names of groups may hold brackets."""
    return any(name == pattern or fnmatchcase(name, pattern) for name in names)


def checked(name: str, what: str, values: Mapping[str, float]) -> Mapping[str, float]:
    """Return the values with the default, `*`, last.

    Raises InputError where there are none, or for one that is no number of at least 0.
    """
    for pattern, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise InputError(f"{what} of {pattern} is {value!r}; a number of at least 0 is wanted")
    rest = {pattern: value for pattern, value in values.items() if pattern != "*"}
    return filled(name, rest | ({"*": values["*"]} if "*" in values else {}))
