"""What several granularities ask of their numbers and shapes."""

from __future__ import annotations

import torch

from prunus.errors import InputError


def check_size(what: str, value: object) -> None:
    """Raise InputError unless the value is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{what} is {value!r}; a whole number of at least 1 is wanted")


def need_dims(name: str, shape: torch.Size, least: int) -> None:
    """Raise InputError, naming the granularity, for a shape of fewer dims."""
    if len(shape) < least:
        raise InputError(f"{name} on shape {tuple(shape)}: at least {least} dims are wanted; choose other targets")
