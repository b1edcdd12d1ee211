"""Changes to models and optimizers: computed in full before the first is made, and undone together."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Number = tuple[Any, str, Any]
"""An object, its attribute, and the value that it shall hold."""


@dataclass(frozen=True)
class Changes:
    """New values for tensors, optimizer state and module attributes.

    tensors: parameter or buffer -> (its new data, its new gradient). slots: (state of a parameter, key, new value).
    numbers: (module or config, attribute, new value).
    """

    tensors: dict[Tensor, tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    slots: list[tuple[dict[str, Any], str, Any]] = field(default_factory=list)
    numbers: list[Number] = field(default_factory=list)

    @classmethod
    def joined(cls, parts: Iterable[Changes]) -> Changes:
        """Return all changes as one."""
        out = cls()
        for part in parts:
            out.tensors.update(part.tensors)
            out.slots.extend(part.slots)
            out.numbers.extend(part.numbers)
        return out

    def make_(self) -> None:
        """Make every change, or none: an error while they are made puts everything back before it is passed on."""
        before = Changes(
            {tensor: (tensor.data, gradient_of(tensor)) for tensor in self.tensors},
            [(slot, key, slot[key]) for slot, key, _ in self.slots],
            [(owner, attribute, getattr(owner, attribute, None)) for owner, attribute, _ in self.numbers],
        )
        try:
            for tensor, (data, gradient) in self.tensors.items():
                set_(tensor, data, gradient)
            for slot, key, value in self.slots:
                slot[key] = value
            for owner, attribute, value in self.numbers:
                _put(owner, attribute, value)
        except BaseException:
            before._restore_()
            raise

    def _restore_(self) -> None:
        for tensor, (data, gradient) in self.tensors.items():
            set_(tensor, data, gradient)
        for slot, key, value in self.slots:
            slot[key] = value
        for owner, attribute, value in self.numbers:
            with suppress(Exception):  # one that cannot be set was not
                _put(owner, attribute, value)


def _put(owner: Any, attribute: str, value: Any) -> None:
    if isinstance(owner, nn.Module):
        setattr(owner, attribute, value)
    else:
        vars(owner)[attribute] = value  # a config may be frozen, or check a value against others that change with it


def set_(tensor: Tensor, data: Tensor, gradient: Tensor | None) -> None:
    """Give a tensor other data of any shape; it stays the same object, with its hooks.

    While the loss of an earlier step is alive, autograd remembers the old shape and refuses the next gradient. It
    forgets when the dtype changes, hence the empty tensor of another one in between.
    """
    if not tensor.is_leaf:  # a buffer that was computed: its history is of the old shape and no optimizer's
        tensor.data = data
        return
    tensor.grad = None
    if tensor.requires_grad:
        other = torch.float16 if data.dtype != torch.float16 else torch.float32
        tensor.data = torch.empty(0, dtype=other, device=data.device)
    tensor.data = data
    tensor.grad = gradient


def gradient_of(tensor: Tensor) -> Tensor | None:
    """Return a tensor's gradient; only leaves have one, and torch warns whoever asks others."""
    return tensor.grad if tensor.is_leaf else None
