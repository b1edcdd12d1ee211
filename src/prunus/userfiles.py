"""A user's Python file as a module, under a name that finds it again in another process."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

_PREFIX = "prunus_user_"


def load_file(path: Path) -> ModuleType:
    """Import a file, once; whatever it raises is raised here."""
    findable()
    stem = re.sub(r"\W", "_", path.stem)
    return importlib.import_module(f"{_PREFIX}{stem}_{str(path.resolve()).encode().hex()}")


def findable() -> None:
    """Let such modules be imported by their names: a process that unpickles what is of them does so first."""
    if _Finder not in sys.meta_path:
        sys.meta_path.append(_Finder)


class _Finder:
    """Reads the file off the module's name."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return where the module is; None for all others."""
        if not name.startswith(_PREFIX):
            return None
        file = Path(bytes.fromhex(name.rpartition("_")[2]).decode())
        return importlib.util.spec_from_file_location(name, file) if file.is_file() else None
