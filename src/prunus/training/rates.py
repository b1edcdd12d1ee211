"""Learning-rate schedules by name: our four words, or any scheduler of torch by its class name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import lr_scheduler

from prunus.batches import first_line
from prunus.errors import InputError, NameNotFound
from prunus.training.optimizers import check_arguments

WORDS = ("constant", "cosine", "step", "one_cycle")
# They need a function, other schedulers, or a metric at every step: none can be written in a recipe.
UNSUITABLE = {
    "LRScheduler",
    "_LRScheduler",
    "LambdaLR",
    "MultiplicativeLR",
    "SequentialLR",
    "ChainedScheduler",
    "ReduceLROnPlateau",
}


@dataclass
class Rate:
    """A schedule bound to an optimizer. `step_end` after every step, `epoch_end` after every epoch."""

    scheduler: lr_scheduler.LRScheduler | None
    every_step: bool

    def step_end(self) -> None:
        """Advance a schedule that counts steps."""
        if self.scheduler is not None and self.every_step:
            self.scheduler.step()

    def epoch_end(self) -> None:
        """Advance a schedule that counts epochs."""
        if self.scheduler is not None and not self.every_step:
            self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Plain values; functions that torch keeps there are rebuilt, not stored."""
        if self.scheduler is None:
            return {}
        return {k: v for k, v in self.scheduler.state_dict().items() if not callable(v)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        if self.scheduler is not None:
            self.scheduler.load_state_dict(dict(state))


def build_rate(
    name: str,
    arguments: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    steps_per_epoch: int,
) -> Rate:
    """Bind a schedule over `epochs` epochs of `steps_per_epoch` steps to the optimizer.

    constant; cosine to 0 over all steps; step (gamma 0.1 every third of the epochs); one_cycle up to the
    optimizer's rate and down over all steps. A class of torch steps once per epoch.
    Raises NameNotFound for an unknown name or argument, InputError for a refused value.
    """
    kind, defaults = _resolve(name, optimizer, epochs=epochs, steps=max(1, epochs * steps_per_epoch))
    if kind is None:
        check_arguments("argument of constant", lambda: None, arguments, skip=())
        return Rate(None, every_step=False)
    check_arguments(f"argument of {name}", kind, arguments, skip=("optimizer",))
    try:
        scheduler = kind(optimizer, **{**defaults, **arguments})
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the lr_schedule {name} refuses its arguments {dict(arguments)}: {first_line(error)}"
        ) from error
    return Rate(scheduler, every_step=name in ("cosine", "one_cycle"))


def check_rate(name: str, arguments: Mapping[str, Any]) -> None:
    """Raise what `build_rate` would, before anything runs."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
    build_rate(name, arguments, optimizer, epochs=3, steps_per_epoch=10)


def rate_names() -> list[str]:
    """Our words, then torch's classes."""
    classes = (value for value in vars(lr_scheduler).values() if inspect.isclass(value))
    torch_names = {value.__name__ for value in classes if issubclass(value, lr_scheduler.LRScheduler)} - UNSUITABLE
    return [*WORDS, *sorted(torch_names)]


def _resolve(name: str, optimizer: torch.optim.Optimizer, *, epochs: int, steps: int) -> tuple[Any, dict[str, Any]]:
    if name not in rate_names():
        raise NameNotFound.of("lr_schedule", name, rate_names())
    if name == "constant":
        return None, {}
    if name == "cosine":
        return lr_scheduler.CosineAnnealingLR, {"T_max": steps}
    if name == "step":
        return lr_scheduler.StepLR, {"step_size": max(1, epochs // 3)}
    if name == "one_cycle":
        highest = [float(group["lr"]) for group in optimizer.param_groups]
        return lr_scheduler.OneCycleLR, {"max_lr": highest, "total_steps": steps}
    return getattr(lr_scheduler, name), {}
