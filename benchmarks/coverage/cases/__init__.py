"""The architectures of the sweep: a name gives a model in eval mode, its arguments and its keyword arguments."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
Builder = Callable[[], Built]

LIBRARIES = ("torchvision", "timm", "transformers")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# transformers loads a library that reads this file of the tests, and so do torchvision and timm: see its docstring.
sys.path.append(str(Path(__file__).parents[3] / "tests"))


def names() -> list[str]:
    """Return every case as `library/architecture`, in the order of the sweep."""
    return [f"{library}/{name}" for library in LIBRARIES for name in _cases(library)]


def builder(case: str) -> Builder:
    """Return the function that builds a case.

    case: `library/architecture`.
    """
    library, _, name = case.partition("/")
    import_module("torchvision_ops")
    return _cases(library)[name]


def _cases(library: str) -> dict[str, Builder]:
    found: dict[str, Builder] = import_module(f"benchmarks.coverage.cases.{library}").CASES
    return found
