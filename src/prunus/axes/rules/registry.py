"""The table from operations to rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prunus.axes.context import Context, Value
from prunus.axes.trace import Node

Result = Value | tuple[Value | None, ...]
Rule = Callable[[Context, Node], Result]

_RULES: dict[str, Rule] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register a rule for operations by name: `aten.conv2d` holds for every overload, `aten.mean.dim` for one."""

    def register(function: Rule) -> Rule:
        for op in ops:
            if op in _RULES:
                raise ValueError(f"operation {op} has a rule already: {_RULES[op].__module__}")
            _RULES[op] = function
        return function

    return register


def lookup(target: Any) -> Rule | None:
    """Return the rule for an operator: its own overload's first, then its name's."""
    name = str(target)
    return _RULES.get(name) or _RULES.get(name.rpartition(".")[0])
