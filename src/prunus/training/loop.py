"""One epoch of training: forward, loss, backward, step."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prunus.batches import Inputs, batches, blame, forward
from prunus.errors import InputError, TrainingError
from prunus.regularizers import Regularizers
from prunus.training.losses import Loss, is_one_number

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class EpochResult:
    """What one epoch of training left.

    loss: mean over the samples, without the terms. seconds: wall clock. steps: optimizer steps.
    terms: each regularizer's term by name, mean over the steps.
    """

    loss: float
    seconds: float
    steps: int
    terms: dict[str, float] = field(default_factory=dict)


def train_epoch(
    model: nn.Module,
    loader: Any,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    *,
    where: str = "training",
    device: torch.device | str = "cpu",
    precision: str = "float32",
    after_step: Callable[[float], None] | None = None,
    regularizers: Regularizers | None = None,
) -> EpochResult:
    """Train one pass over the loader.

    where: stage and epoch in words, for the sentence of an error.
    precision: float32, or bfloat16 under autocast; the parameters stay as they are.
    after_step: called with the batch's loss after every optimizer step (learning rate, progress).
    regularizers: their terms are added to the loss; they are not in `loss`, nor in what `after_step` is told.
    Raises TrainingError when data, model or loss fail, or the loss is not finite: before its step is taken.
    """
    device = torch.device(device)
    model.train()
    start, total, samples, steps = time.perf_counter(), 0.0, 0, 0
    sums: dict[str, float] = {}
    for inputs, target in batches(loader, "data.train", device):
        step = f"{where}, step {steps + 1}"
        value = _loss(model, inputs, target, loss, step, _precision(precision, device))
        number = _finite(value, step)
        if regularizers is not None:
            value = value + regularizers()
            for name, term in regularizers.last.items():
                sums[name] = sums.get(name, 0.0) + _finite_term(name, term, step)
        optimizer.zero_grad(set_to_none=True)
        with blame(f"{step}: the backward pass"):
            value.backward()  # type: ignore[no-untyped-call]
        with blame(f"{step}: the optimizer {type(optimizer).__name__}"):
            optimizer.step()
        total, samples, steps = total + number * len(inputs[0]), samples + len(inputs[0]), steps + 1
        if after_step is not None:
            after_step(number)
    means = {name: term / steps for name, term in sums.items()}
    return EpochResult(total / samples, time.perf_counter() - start, steps, means)


def check_batch(model: nn.Module, loader: Any, loss: Loss, *, device: torch.device | str = "cpu") -> None:
    """Send the first batch through model and loss, without a step; raises TrainingError as `train_epoch` does."""
    device = torch.device(device)
    model.train()
    inputs, target = next(batches(loader, "data.train", device))
    _finite(_loss(model, inputs, target, loss, "before training", contextlib.nullcontext()), "before training")


def _loss(
    model: nn.Module,
    inputs: Inputs,
    target: Any,
    loss: Loss,
    where: str,
    precision: contextlib.AbstractContextManager[Any],
) -> Tensor:
    with precision:
        output = forward(model, inputs, where)
        with blame(f"{where}: the loss"):
            value = loss(output, target)
    if not is_one_number(value):
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TrainingError(f"{where}: the loss returned {got}; want one floating-point number in a tensor")
    return value


def _finite(value: Tensor, where: str) -> float:
    number = float(value.detach())
    if not math.isfinite(number):
        raise TrainingError(f"{where}: the loss is {number}; lower the learning rate or look at the data")
    return number


def _finite_term(name: str, term: float, where: str) -> float:
    if not math.isfinite(term):
        raise TrainingError(f"{where}: the regularizer {name} is {term}; lower its strength or the learning rate")
    return term


def _precision(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    if precision not in PRECISIONS:
        raise InputError(f"precision is {precision!r}; want {' or '.join(PRECISIONS)}")
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
