"""Patterns over the names and module types of a model's parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from torch import nn

from prunus.errors import InputError, NameNotFound
from prunus.granularity.turned import groups_if_turned

TargetSpec: TypeAlias = str | Sequence[str] | Mapping[str, Any]

KEYS = ("kind", "group", "type", "name", "exclude")
"""What a mapping of targets may hold."""


@dataclass(frozen=True)
class Spec:
    """Targets as they were read: patterns, and None where nothing was said of types, kinds or groups."""

    names: tuple[str, ...] = ("*",)
    types: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    exclude_kinds: tuple[str, ...] = ()
    exclude_groups: tuple[str, ...] = ()

    @property
    def speaks_of_groups(self) -> bool:
        """Whether it says something that only groups have: a kind, a group's own name."""
        return self.kinds is not None or self.groups is not None or bool(self.exclude_kinds or self.exclude_groups)


@dataclass(frozen=True)
class Entry:
    """One float parameter that may be named.

    name: canonical (first) name; aliases: all names, where the tensor is shared; owners: class names of the
    owning modules and their bases; is_weight: whether `*` means it. turned: groups of a weight that lies inputs first,
    else 0, see `groups_if_turned`.
    """

    name: str
    aliases: tuple[str, ...]
    owners: frozenset[str]
    is_weight: bool
    turned: int = 0

    def matches(self, pattern: str) -> bool:
        """Tell whether the pattern matches one of the names or a module around the parameter."""
        return any(is_inside(alias, pattern) for alias in self.aliases)

    def is_named(self, pattern: str) -> bool:
        """Tell whether the pattern matches one of the full names."""
        return any(fnmatchcase(alias, pattern) for alias in self.aliases)


@dataclass(frozen=True)
class Selection:
    """The canonical names that a spec wants, already without those that it excludes."""

    wanted: frozenset[str]
    excluded: frozenset[str]


def catalogue(model: nn.Module) -> list[Entry]:
    """List every float parameter once, in the model's order."""
    aliases: dict[int, list[str]] = {}
    owners: dict[int, list[nn.Module]] = {}
    tensors: dict[int, nn.Parameter] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.is_floating_point() and not nn.parameter.is_lazy(parameter):
                tensors[id(parameter)] = parameter
                aliases.setdefault(id(parameter), []).append(f"{path}.{key}" if path else key)
                owners.setdefault(id(parameter), []).append(module)
    return [_entry(tensors[key], names, owners[key]) for key, names in aliases.items()]


def read(spec: TargetSpec) -> Spec:
    """Read targets.

    spec: `*`, a pattern, a list of patterns, or a mapping with `kind`, `group`, `type`, `name`, `exclude`; what is
        excluded is a pattern, `{"kind": …}`, `{"group": …}`, or a list of these. Groups go by their full names.
    Raises NameNotFound for an unknown key, InputError for another form.
    """
    fields = spec if isinstance(spec, Mapping) else {"name": spec}
    for key in fields:
        if key not in KEYS:
            raise NameNotFound.of("key of targets", str(key), KEYS)
    names: list[str] = []
    only: dict[str, list[str]] = {"kind": [], "group": []}
    for item in as_list(fields.get("exclude", [])):
        if isinstance(item, Mapping):
            for key in item:
                if key not in only:
                    raise NameNotFound.of("key of exclude", str(key), only)
                only[key].extend(_words("exclude", item[key]))
        else:
            names.extend(_words("exclude", item))
    return Spec(
        names=tuple(_words("name", fields.get("name", "*"))),
        types=tuple(_words("type", fields["type"])) if "type" in fields else None,
        kinds=tuple(_words("kind", fields["kind"])) if "kind" in fields else None,
        groups=tuple(_words("group", fields["group"])) if "group" in fields else None,
        exclude=tuple(names),
        exclude_kinds=tuple(only["kind"]),
        exclude_groups=tuple(only["group"]),
    )


def as_list(items: object) -> list[Any]:
    """Return a list, or what stands alone as a list of one."""
    return list(items) if isinstance(items, Sequence) and not isinstance(items, str) else [items]


def with_protection(targets: TargetSpec, protect: TargetSpec) -> TargetSpec:
    """Return the targets without what is protected."""
    if not protect:
        return targets
    fields = dict(targets) if isinstance(targets, Mapping) else {"name": targets}
    return {**fields, "exclude": [*as_list(fields.get("exclude", [])), *as_list(protect)]}


def resolve(entries: Sequence[Entry], spec: TargetSpec) -> Selection:
    """Find the parameters that a spec means by names and types; see `read`.

    Raises NameNotFound when a pattern or a type matches nothing, InputError when the spec has another form
    or leaves nothing.
    """
    given = read(spec)
    candidates = list(entries) if given.types is None else _of_types(entries, given.types)
    whole = given.types is not None and given.names == ("*",)
    chosen = candidates if whole else _united(candidates, given.names)
    excluded = [entry for pattern in given.exclude for entry in _hit(entries, pattern)]
    out = frozenset(entry.name for entry in excluded)
    wanted = frozenset(entry.name for entry in chosen) - out
    if not wanted:
        raise InputError(f"targets {spec!r} exclude everything that they name; exclude less")
    return Selection(wanted, out)


def _entry(parameter: nn.Parameter, names: list[str], owners: list[nn.Module]) -> Entry:
    types = {base.__name__ for owner in owners for base in type(owner).__mro__ if issubclass(base, nn.Module)}
    is_embedding = bool(types & {"Embedding", "EmbeddingBag"})
    is_weight = parameter.dim() >= 2 and not is_embedding and any("weight" in n.rpartition(".")[2] for n in names)
    turned = groups_if_turned(owners[0]) if is_weight else 0
    return Entry(names[0], tuple(names), frozenset(types - {"Module"}), is_weight, turned)


def is_inside(name: str, pattern: str) -> bool:
    """Tell whether the pattern matches a dotted name, or that of a module around it."""
    return any(fnmatchcase(prefix, pattern) for prefix in _prefixes(name))


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _words(key: str, value: object) -> list[str]:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, Sequence) or not all(isinstance(word, str) and word for word in words):
        raise InputError(f"targets: {key} is {value!r}; a pattern or a list of patterns is wanted")
    if not words and key != "exclude":
        raise InputError(f"targets: {key} is empty; name at least one")
    return list(words)


def _united(entries: Sequence[Entry], patterns: Iterable[str]) -> list[Entry]:
    found = {entry.name for pattern in patterns for entry in _weights_of(entries, pattern)}
    return [entry for entry in entries if entry.name in found]


def _weights_of(entries: Sequence[Entry], pattern: str) -> list[Entry]:
    """Return what a pattern means: an exact name first, then weights, then whatever it names in full."""
    exact = [entry for entry in entries if pattern in entry.aliases]
    if exact:
        return exact
    weights = [entry for entry in entries if entry.is_weight and entry.matches(pattern)]
    named = [entry for entry in entries if pattern != "*" and entry.is_named(pattern)]
    if not weights and not named:
        inside = [entry.name for entry in entries if entry.matches(pattern)]
        raise NameNotFound.of("weight of two dims", pattern, inside or _known(entries))
    return weights or named


def _hit(entries: Sequence[Entry], pattern: str) -> list[Entry]:
    hit = [entry for entry in entries if entry.matches(pattern)]
    if not hit:
        raise NameNotFound.of("weight to exclude", pattern, _known(entries))
    return hit


def _of_types(entries: Sequence[Entry], types: Sequence[str]) -> list[Entry]:
    known = {owner for entry in entries for owner in entry.owners}
    for name in types:
        if name not in known:
            raise NameNotFound.of("module type", name, sorted(known))
    owned = [entry for entry in entries if entry.owners & set(types)]
    return [entry for entry in owned if entry.is_weight] or owned


def _known(entries: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(name for e in entries for alias in e.aliases for name in _prefixes(alias)))
