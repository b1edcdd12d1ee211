"""From a file and overrides to a checked recipe; everything wrong in it becomes one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from prunus.errors import RecipeError
from prunus.recipes.overrides import override
from prunus.recipes.schema import Recipe
from prunus.yaml_source import Path_, Source, read_source

# Only the types that pydantic names in other words than a person would.
_WANTED = {
    "int_type": "want a whole number",
    "float_type": "want a number",
    "string_type": "want a text",
    "bool_type": "want true or false",
    "list_type": "want a list",
    "dict_type": "want a mapping",
    "model_type": "want a mapping",
    "model_attributes_type": "want a mapping",
    "too_short": "want at least one",
}


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override (`a.b=value`) and check a recipe.

    Raises RecipeError: file and line, path inside it, what was got, what is wanted, the nearest right spelling.
    """
    source = override(read_source(Path(path)), overrides)
    return check(source)


def check(source: Source) -> Recipe:
    """Check the values of a source against the schema."""
    if "version" not in source.values:
        raise RecipeError(f"{source.name} has no `version`; a recipe begins with `version: 1`")
    faults = _faults(source.values)
    if not faults:
        return Recipe.model_validate(source.values)
    # The version before all else: a newer one may have other keys, which are not wrong.
    newer = [fault for fault in faults if fault["loc"] == ("version",)]
    first, *others = newer[:1] or sorted(faults, key=lambda fault: _order(source, fault))
    more = f" ({len(others)} more after this)" if others else ""
    raise RecipeError(_sentence(source, first) + more) from _cause(first)


def _faults(values: dict[str, Any]) -> list[Any]:
    try:
        Recipe.model_validate(values)
    except ValidationError as error:
        return list(error.errors())
    return []


def _order(source: Source, fault: Any) -> tuple[bool, int]:
    """What is there and wrong comes before what is missing: a misspelt key is both."""
    return fault["type"] == "missing", source.line(_path(fault)) or 0


def _sentence(source: Source, fault: Any) -> str:
    path = _path(fault)
    if fault["type"] == "extra_forbidden":
        return f"{source.at(path)}: there is no such key{_near(str(path[-1]), _known_keys(path[:-1]))}"
    if fault["type"] == "missing":
        return f"{source.at(path[:-1])}: `{path[-1]}` is missing{_example(str(path[-1]))}"
    return f"{source.at(path)}: got {_short(fault['input'])}; {_message(fault)}"


def _message(fault: Any) -> str:
    own = _cause(fault)
    if own is not None:
        return str(own)
    if fault["type"] in _WANTED:
        return _WANTED[fault["type"]]
    text = str(fault["msg"])
    return text.replace("Input should be", "want", 1)


def _cause(fault: Any) -> BaseException | None:
    error = fault.get("ctx", {}).get("error")
    return error if isinstance(error, BaseException) else None


def _path(fault: Any) -> Path_:
    return tuple(fault["loc"])


def _known_keys(path: Path_) -> list[str]:
    """The keys that the schema has at a path."""
    model: Any = Recipe
    for part in path:
        if isinstance(part, str):
            model = _inner_model(model.model_fields[part].annotation)
    return list(model.model_fields)


def _inner_model(annotation: Any) -> Any:
    """The pydantic model inside `Model | None`, `list[Model]` and `Annotated[Model, …]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_inner_model(argument) for argument in getattr(annotation, "__args__", ()))
    return next((model for model in inner if model is not None), None)


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else f"; known: {', '.join(known)}"


def _example(key: str) -> str:
    examples = {
        "model": "package.module:function",
        "data": "package.module:function",
        "out": "runs/mine",
        "granularity": "filter",
        "schedule": "{kind: agp, final: 0.5, begin: 0ep, end: 3ep}",
    }
    return f"; write it, such as `{key}: {examples[key]}`" if key in examples else "; write it"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
