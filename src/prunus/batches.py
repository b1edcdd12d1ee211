"""Where the user's code is called: its data, its model; what fails there is named."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prunus.errors import InputError, PrunusError, TrainingError

Inputs = tuple[Tensor, ...]


@contextmanager
def blame(what: str) -> Iterator[None]:
    """Turn any exception of the user's code into a TrainingError that names `what`."""
    try:
        yield
    except PrunusError:
        raise
    except Exception as error:
        raise TrainingError(f"{what} raised {type(error).__name__}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def batches(loader: Any, name: str, device: torch.device) -> Iterator[tuple[Inputs, Any]]:
    """Yield (inputs, target) on the device; inputs are a tuple of tensors.

    Raises TrainingError when the loader raises, is empty, or yields something else than (x, y).
    """
    with blame(f"{name} (at its start)"):
        iterator = iter(loader)
    number = 0
    while True:
        number += 1
        with blame(f"{name} at batch {number}"):
            batch = next(iterator, _END)
        if batch is _END:
            break
        yield split(batch, name, device)
    if number == 1:
        raise TrainingError(f"{name} is empty: it yielded no batch; give at least one (x, y)")


_END = object()


def split(batch: Any, name: str, device: torch.device) -> tuple[Inputs, Any]:
    """Part a batch (x, y) into a tuple of input tensors and the target, both on the device."""
    if not isinstance(batch, (list, tuple)) or len(batch) != 2:
        size = f" of {len(batch)}" if isinstance(batch, (list, tuple)) else ""
        raise TrainingError(f"{name} yielded a {type(batch).__name__}{size}; want pairs (x, y)")
    x, y = batch
    inputs = tuple(x) if isinstance(x, (list, tuple)) else (x,)
    for item in inputs:
        if not isinstance(item, Tensor):
            raise TrainingError(f"{name} yielded x as {type(item).__name__}; want a tensor or a tuple of tensors")
    return tuple(item.to(device) for item in inputs), y.to(device) if isinstance(y, Tensor) else y


def forward(model: nn.Module, inputs: Inputs, where: str) -> Tensor:
    """The model's output tensor; raises TrainingError when it raises or returns something else."""
    with blame(f"{where}: the model {type(model).__name__}"):
        output = model(*inputs)
    if not isinstance(output, Tensor):
        kind = type(output).__name__
        raise TrainingError(
            f"{where}: the model {type(model).__name__} returned {kind}, want one tensor; "
            "wrap it in a module that picks the tensor"
        )
    return output


def first_batch(loader: Any, name: str) -> tuple[Inputs, Any]:
    """The first batch, on the CPU; raises TrainingError when the loader is empty or raises."""
    return next(batches(loader, name, torch.device("cpu")))


def first_inputs(loader: Any, name: str, count: int) -> Inputs:
    """The first `count` samples of the first batch, on the CPU.

    Raises TrainingError when the loader is empty or raises.
    """
    inputs, _ = first_batch(loader, name)
    return tuple(item[:count] for item in inputs)


def check_loader(loader: Any, name: str) -> None:
    """Refuse what cannot be read again at every epoch; raises InputError."""
    if not hasattr(loader, "__iter__") and not hasattr(loader, "__getitem__"):
        raise InputError(f"{name} is a {type(loader).__name__}; want an iterable of (x, y), such as a DataLoader")
    if hasattr(loader, "__next__"):
        raise InputError(
            f"{name} is a {type(loader).__name__}, which can be read once only; "
            "want an iterable that starts anew, such as a DataLoader"
        )


def num_samples(loader: Any, name: str) -> int:
    """How many samples one pass holds: the length of `loader.dataset`, or counted."""
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, Sized):
        return len(dataset)
    return sum(len(inputs[0]) for inputs, _ in batches(loader, name, torch.device("cpu")))


def num_batches(loader: Any, name: str) -> int:
    """How many batches one pass holds: `len(loader)`, or counted."""
    if isinstance(loader, Sized):
        return len(loader)
    return sum(1 for _ in batches(loader, name, torch.device("cpu")))
