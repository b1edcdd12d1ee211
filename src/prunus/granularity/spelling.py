"""The spelling `name(1, key=value)` of granularities and criteria, alike in YAML, commands and Python."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from prunus.errors import InputError, NameNotFound

_T = TypeVar("_T")


@dataclass(frozen=True)
class Call:
    """A name with its arguments, as written: `vector(4, dim=1)`."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


def parse_call(kind: str, text: str) -> Call:
    """Read `name` or `name(arguments)`; arguments are numbers, quoted words or bare words.

    kind: the kind of thing, such as `criterion`, for the error.
    Raises InputError when the text has another form.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return Call(node.id)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and all(k.arg for k in node.keywords):
            kwargs = {str(k.arg): _value(k.value) for k in node.keywords}
            return Call(node.func.id, tuple(_value(arg) for arg in node.args), kwargs)
    except (SyntaxError, ValueError):
        pass
    raise InputError(f"{kind} {text!r} cannot be read; write a name or name(value, key=value)")


def build(kind: str, text: str, known: dict[str, Callable[..., _T]]) -> _T:
    """Read the text and call what it names with its arguments.

    known: name to factory.
    Raises NameNotFound for an unknown name or key, InputError for arguments that the factory does not take.
    """
    call = parse_call(kind, text)
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
        raise InputError(f"{kind} {text!r}: {error}; it takes ({', '.join(parameters)})") from None
    return factory(*call.args, **call.kwargs)


def _value(node: ast.expr) -> Any:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)
