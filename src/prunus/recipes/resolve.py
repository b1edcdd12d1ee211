"""`package.module:function` and `path/to/file.py:function`: from a name in a recipe to something callable."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from prunus.errors import InputError, NameNotFound, PrunusError
from prunus.userfiles import load_file


def resolve(name: str, folders: Sequence[Path] = ()) -> Callable[..., Any]:
    """Find the callable that `name` means.

    name: `package.module:function` or `file.py:function`; a dotted attribute after the colon is followed.
    folders: where files and modules are looked for, in order (the recipe's folder, the current folder).
    Raises InputError or NameNotFound that name what failed: the spelling, the module, the attribute.
    """
    module_name, attribute = split_name(name)
    found: Any = _module(module_name, folders)
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = [n for n in dir(found) if not n.startswith("_")]
            raise NameNotFound.of(f"attribute of {module_name}", part, known)
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"{name} is a {type(found).__name__}; want a function or a class")
    function: Callable[..., Any] = found
    return function


def split_name(name: str) -> tuple[str, str]:
    """Part `module:function`; raises InputError when it is not spelt so."""
    module, _, attribute = name.rpartition(":")
    words = attribute.split(".")
    if not module or not all(word.isidentifier() for word in words):
        raise InputError(f"{name!r} is no module:function; write package.module:function or file.py:function")
    return module, attribute


def call(function: Callable[..., Any], name: str, arguments: Mapping[str, Any]) -> Any:
    """Call the user's function; raises InputError that names it, chained to what it raised.

    An argument that the signature does not have is a NameNotFound with the near names.
    """
    _check_arguments(function, name, arguments)
    try:
        return function(**arguments)
    except PrunusError:
        raise
    except Exception as error:
        text = (str(error).strip().splitlines() or ["no message"])[0]
        raise InputError(f"{name} raised {type(error).__name__}: {text}{_place(error)}") from error


def _module(name: str, folders: Sequence[Path]) -> ModuleType:
    if name.endswith(".py"):
        return _load_file(name, folders)
    _extend_path(folders)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise InputError(f"importing {name} failed: it needs the module {error.name}, which is absent") from error
        places = ", ".join(str(folder) for folder in folders)
        raise InputError(
            f"no module named {error.name!r} (asked by {name}); looked in {places} and the installed packages"
        ) from error
    except PrunusError:
        raise
    except Exception as error:
        raise InputError(f"importing {name} failed: {type(error).__name__}: {error}{_place(error)}") from error


def _load_file(name: str, folders: Sequence[Path]) -> ModuleType:
    candidates = [folder / name for folder in folders] if not Path(name).is_absolute() else [Path(name)]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise InputError(f"no file {name}; looked for {', '.join(str(c) for c in candidates)}")
    _extend_path([path.resolve().parent])
    try:
        return load_file(path)
    except PrunusError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"loading {name} failed: {type(error).__name__}: {error}{_place(error)}") from error


def _extend_path(folders: Sequence[Path]) -> None:
    """Behind what is there already: a user's file never hides an installed package."""
    for folder in folders:
        text = str(folder.resolve())
        if text not in sys.path:
            sys.path.append(text)


def _check_arguments(function: Callable[..., Any], name: str, arguments: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # builtins without a signature
        return
    parameters = signature.parameters.values()
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in arguments:
            if key not in known:
                raise NameNotFound.of(f"argument of {name}", key, known)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise InputError(f"{name} cannot be called with {dict(arguments)}: {error}; give them under `args`") from error


def _place(error: BaseException) -> str:
    """` (data.py:12)`: the innermost line of the user's code."""
    frames = [frame for frame in _frames(error) if not frame[0].startswith("<frozen")]
    return f" ({Path(frames[-1][0]).name}:{frames[-1][1]})" if frames else ""


def _frames(error: BaseException) -> list[tuple[str, int]]:
    found, traceback = [], error.__traceback__
    while traceback is not None:
        found.append((traceback.tb_frame.f_code.co_filename, traceback.tb_lineno))
        traceback = traceback.tb_next
    return found
