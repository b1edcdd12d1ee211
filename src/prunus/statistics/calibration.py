"""Where statistics come from: batches, how the model is called on them, and the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from prunus.batches import blame, check_loader
from prunus.errors import InputError, TrainingError

Loss = Callable[[Any, Any], Tensor]

PADDING = "attention_mask"
"""The keyword that tells which tokens of a batch are real, as tokenizers of transformers name it."""


@dataclass(frozen=True)
class Batch:
    """One call of the model: its arguments, and what the loss compares the output with.

    target is None where the data has none.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    target: Any = None

    @property
    def size(self) -> int:
        """Samples: the length of the first tensor."""
        return next(len(item) for item in (*self.args, *self.kwargs.values()) if isinstance(item, Tensor))

    @property
    def is_real(self) -> Tensor | None:
        """Which tokens are no padding, (B, T) bool, or None where nothing says so."""
        mask = self.kwargs.get(PADDING)
        return mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None

    def run(self, model: nn.Module) -> Any:
        """Return the model's output."""
        with blame(f"calibration: the model {type(model).__name__}"):
            return model(*self.args, **self.kwargs)

    def samples(self) -> Iterator[Batch]:
        """Yield every sample as a batch of one; what has another length than the batch is shared by all."""
        for i in range(self.size):
            yield Batch(
                tuple(self._cut(item, i) for item in self.args),
                {key: self._cut(item, i) for key, item in self.kwargs.items()},
                self._cut(self.target, i),
            )

    def _cut(self, item: Any, i: int) -> Any:
        return item[i : i + 1] if isinstance(item, Tensor) and item.dim() and len(item) == self.size else item


@dataclass(frozen=True)
class Calibration:
    """The data that statistics are collected from, and the loss where gradients are wanted.

    data: read anew for each pass, without shuffling where figures shall repeat. It yields pairs (x, y), x a tensor
        or a tuple of them; single tensors; or mappings of keyword arguments, such as a tokenizer's, whose
        `attention_mask` tells what is padding.
    loss: (output, y) -> mean loss of the batch; None reads `output.loss`, as models of transformers return it.
    batches: how many are read at most; None: all.
    Raises InputError for data that can be read once only, or a wrong number of batches.
    """

    data: Any
    loss: Loss | None = None
    batches: int | None = None

    def __post_init__(self) -> None:
        check_loader(self.data, "calibration data")
        if self.loss is not None and not callable(self.loss):
            raise InputError(f"calibration loss is {self.loss!r}; a function (output, target) -> loss is wanted")
        if self.batches is not None and (type(self.batches) is not int or self.batches < 1):
            raise InputError(f"calibration batches is {self.batches!r}; a whole number of at least 1 is wanted")

    def read(self, device: torch.device) -> Iterator[Batch]:
        """Yield the batches on a device; raises TrainingError when there is none or one cannot be read."""
        is_empty = True
        for batch in islice(self._raw(), self.batches):
            is_empty = False
            yield _batch(batch, device)
        if is_empty:
            raise TrainingError("calibration data is empty: it yielded no batch; give at least one")

    def _raw(self) -> Iterator[Any]:
        with blame("calibration data"):
            yield from self.data

    def loss_of(self, output: Any, batch: Batch) -> Tensor:
        """Return the batch's mean loss; raises TrainingError where it is no single number."""
        if self.loss is None:
            value = getattr(output, "loss", None)
            if value is None:
                raise TrainingError(
                    f"gradients need a loss: the model returned {type(output).__name__} without .loss; give loss="
                )
        else:
            with blame("calibration: the loss"):
                value = self.loss(output, batch.target)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            raise TrainingError("the calibration loss is no single number that depends on the weights")
        return value.reshape(())


def calibration(data: Any, loss: Loss | None = None) -> Calibration | None:
    """Read the arguments `data` and `loss` that functions of this library take; None without data.

    Raises InputError for a loss without data, or a loss beside a Calibration, which has its own.
    """
    if data is None:
        if loss is not None:
            raise InputError("loss is given without data; give data=, the batches it is computed on")
        return None
    if isinstance(data, Calibration):
        if loss is not None:
            raise InputError("loss is given twice: data is a Calibration, which has its own")
        return data
    return Calibration(data, loss)


def _batch(item: Any, device: torch.device) -> Batch:
    """Read what a loader yields as a call of the model."""
    moved = _moved(item, device)
    if isinstance(moved, Mapping):
        if not any(isinstance(value, Tensor) for value in moved.values()):
            raise TrainingError(f"calibration data yielded a mapping of {sorted(moved)} without a tensor")
        return Batch(kwargs=dict(moved))
    if isinstance(moved, Tensor):
        return Batch((moved,))
    if isinstance(moved, (list, tuple)) and len(moved) == 2:
        x, y = moved
        inputs = tuple(x) if isinstance(x, (list, tuple)) else (x,)
        if all(isinstance(part, Tensor) for part in inputs):
            return Batch(inputs, target=y)
    raise TrainingError(
        f"calibration data yielded a {type(item).__name__}; want (x, y), a tensor, or a mapping of keyword arguments"
    )


def _moved(item: Any, device: torch.device) -> Any:
    if isinstance(item, Tensor):
        return item.to(device)
    if isinstance(item, Mapping):
        return {key: _moved(value, device) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return type(item)(_moved(value, device) for value in item) if type(item) in (list, tuple) else tuple(item)
    return item
