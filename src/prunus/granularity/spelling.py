"""The spelling `name(1, key=value)` of granularities and criteria, alike in YAML, commands and Python."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from prunus.errors import InputError, NameNotFound

_T = TypeVar("_T")

_FORM = re.compile(r"\s*([A-Za-z_]\w*)\s*(?:\(\s*(.*?)\s*\))?\s*")
_ARGUMENT = re.compile(r"\s*(?:([A-Za-z_]\w*)\s*=\s*)?([\w.+\-]+|'\w+'|\"\w+\")\s*")


@dataclass(frozen=True)
class Call:
    """A name with its arguments, as written: `vector(4, dim=1)`."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        written = [str(value) for value in self.args] + [f"{key}={value}" for key, value in self.kwargs.items()]
        return f"{self.name}({', '.join(written)})" if written else self.name


def parse_call(kind: str, text: str) -> Call:
    """Read `name` or `name(arguments)`; arguments are numbers, quoted words or bare words.

    kind: the kind of thing, such as `criterion`, for the error.
    Raises InputError when the text has another form.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise InputError(f"{kind} {text!r} cannot be read; write a name or name(value, key=value)")
    written = [_ARGUMENT.fullmatch(word) for word in match[2].split(",")] if match[2] else []
    if not all(written):
        raise InputError(f"{kind} {text!r} has arguments that cannot be read; write name(value, key=value)")
    found = [(argument[1], _value(argument[2])) for argument in written if argument]
    args = tuple(value for key, value in found if key is None)
    return Call(match[1], args, {key: value for key, value in found if key is not None})


def build(kind: str, text: str, known: dict[str, Callable[..., _T]]) -> _T:
    """Read the text and call what it names with its arguments.

    known: name to factory.
    Raises NameNotFound for an unknown name or key, InputError for arguments that the factory does not take.
    """
    return construct(kind, parse_call(kind, text), known)


def construct(kind: str, call: Call, known: dict[str, Callable[..., _T]]) -> _T:
    """Call what is named with its arguments; raises as `build` does."""
    if call.name not in known:
        raise NameNotFound.of(kind, call.name, known)
    factory = known[call.name]
    parameters = inspect.signature(factory).parameters
    for key in call.kwargs:
        if key not in parameters:
            raise NameNotFound.of(f"argument of {call.name}", key, parameters)
    try:
        inspect.signature(factory).bind(*call.args, **call.kwargs)
    except TypeError as error:
        raise InputError(f"{kind} {str(call)!r}: {error}; it takes ({', '.join(parameters)})") from None
    return factory(*call.args, **call.kwargs)


def _value(word: str) -> int | float | str:
    """Read a whole number, a number (inf too), or else a word with or without quotes."""
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word.strip("'\"")
