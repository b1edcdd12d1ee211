"""A `.prunus` file checked from outside: `prunus verify`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_model

from prunus.errors import FileError
from prunus.plans import Verdict, verify
from prunus.recipes.inspection import build, examples


def verify_file(name: str, file: Path, shapes: Sequence[str], weights: Path | None = None) -> Verdict:
    """Check a file against its dense class, and against the dense weights where they are given.

    name: `module:function` or `file.py:function` that returns the dense model. shapes: as for `inspect_model`.
    weights: a safetensors file with the dense model's state dict.
    Raises InputError for a wrong name or shape, FileError for a file that is missing, damaged or of another model.
    """
    model, args = build(name), examples(shapes)
    if weights is None:
        return verify(lambda: model, file, args)
    if not weights.is_file():
        raise FileError(f"there is no file {weights}")
    try:
        load_model(model, weights)
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:400]
        raise FileError(f"{weights} does not hold the weights of {type(model).__name__}: {reason}") from error
    return verify(model, file, args)
