"""YAML as a recipe wants it: nothing is executed, nothing is read twice, every value knows its line.

Differences from YAML 1.1 as PyYAML reads it: `2:4` is a text (not 124 seconds), `1e-3` is a number (not a text),
`on`, `off`, `yes`, `no` are texts, a date is a text, and a key that comes twice is an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from prunus.errors import RecipeError

Path_ = tuple[str | int, ...]
MAX_BYTES = 1_000_000
MAX_VALUES = 100_000
_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (the attribute's name and kind are PyYAML's)


_NUMBER = r"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)"
_FLOAT = rf"{_NUMBER}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
for tag, pattern, first in (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)", [*"-+0123456789"]),
    ("float", _FLOAT, [*"-+0123456789."]),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), first)


@dataclass(frozen=True)
class Source:
    """A parsed file: plain values, and the line of each.

    name: how the file is named in errors. lines: path inside the file -> line, counted from 1.
    settings: path -> the `--set` that put its value there.
    """

    name: str
    values: dict[str, Any]
    lines: dict[Path_, int]
    settings: dict[Path_, str] = field(default_factory=dict)

    def line(self, path: Path_) -> int | None:
        """The line of the path, or of the nearest thing around it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None

    def at(self, path: Path_) -> str:
        """`recipe.yaml:12: prune.policies[0].granularity`."""
        line = self.line(path)
        place = self.name if line is None else f"{self.name}:{line}"
        for given, setting in self.settings.items():
            if path[: len(given)] == given or (given[: len(path)] == path and path and path not in self.lines):
                place = f"{self.name} with --set {setting}"
        return f"{place}: {spell(path)}" if path else place


def spell(path: Path_) -> str:
    """`prune.policies[0].granularity`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def read_source(path: Path) -> Source:
    """Read a YAML file that holds one mapping; raises RecipeError, in one sentence, for everything else."""
    return parse_source(_read(path), str(path))


def parse_source(text: str, name: str) -> Source:
    """Parse the text of a YAML file that holds one mapping; `name` is its name in errors."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise RecipeError(f"{name} holds {_kind(node)}; want a mapping with `version: 1`, `model:`, `data:`, …")
        builder = _Builder(loader, name)
        values = builder.build(node)
    except yaml.YAMLError as error:
        raise RecipeError(f"{name}{_line(error)}: this is not YAML: {_problem(error)}") from error
    except RecursionError as error:
        raise RecipeError(f"{name}: the values are nested too deeply") from error
    return Source(name, values, builder.lines)


def parse_value(text: str, name: str) -> Any:
    """One YAML value, as in `--set a.b=value`."""
    return parse_source(f"value: {text}" if text.strip() else "value:", name).values["value"]


def _read(path: Path) -> str:
    if path.is_dir():
        raise RecipeError(f"{path} is a folder; want a recipe file, such as {path / 'recipe.yaml'}")
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise RecipeError(f"no recipe file {path}{_near_files(path)}") from error
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    if len(content) > MAX_BYTES:
        raise RecipeError(f"{path} has {len(content)} bytes; a recipe has at most {MAX_BYTES}")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not a text file: byte {error.start} is not UTF-8; want a YAML recipe") from error


def _near_files(path: Path) -> str:
    found = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
    return f"; there is {', '.join(found[:5])}" if found else "; write one, or start with `prunus quickstart`"


class _Builder:
    """Constructs plain values from nodes, and notes where each began."""

    def __init__(self, loader: _Loader, name: str) -> None:
        self._loader = loader
        self._name = name
        self._merged: set[int] = set()
        self.lines: dict[Path_, int] = {}

    def build(self, node: Any, path: Path_ = ()) -> Any:
        """Aliases are followed: hence the limit on their number."""
        self.lines[path] = node.start_mark.line + 1
        if len(self.lines) > MAX_VALUES:
            raise RecipeError(f"{self._name}: more than {MAX_VALUES} values; aliases multiply them")
        if isinstance(node, yaml.ScalarNode):
            return self._loader.construct_object(node)
        if node.tag not in _PLAIN_TAGS:
            raise RecipeError(f"{self._name}:{self.lines[path]}: {spell(path)} has the tag {node.tag}; want none")
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
        self._merge(node, path)
        return {key.value: self.build(value, (*path, key.value)) for key, value in node.value}

    def _merge(self, node: yaml.MappingNode, path: Path_) -> None:
        """Check the keys as they are written, then follow `<<`; once per node, for an alias comes again."""
        if id(node) not in self._merged:
            _check_keys(node, path, self._name)
            self._loader.flatten_mapping(node)
            self._merged.add(id(node))


def _check_keys(node: yaml.MappingNode, path: Path_, name: str) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise RecipeError(f"{name}:{line}: {spell(path)}: a key is a {key.id}; want a word")
        if key.value in seen and key.value != "<<":
            where = spell((*path, key.value))
            raise RecipeError(f"{name}:{line}: {where} comes twice, first in line {seen[key.value]}; keep one")
        seen[key.value] = line


def _kind(node: Any) -> str:
    if node is None:
        return "nothing"
    return {"scalar": "a single value", "sequence": "a list"}.get(node.id, f"a {node.id}")


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}" if mark is not None else ""


def _problem(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return str(problem).splitlines()[0]
