"""What an optimizer remembers of a parameter, masked like the parameter itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prunus.errors import InputError
from prunus.masks.bits import mask_, maskable


def mask_state_(optimizer: torch.optim.Optimizer, parameter: Tensor, bits: Tensor) -> None:
    """Zero the pruned positions of every state tensor of the parameter's shape: momentum, moments, averages.

    State of another shape (the row and column sums of Adafactor, the counter `step`) has no positions and
    is left.
    """
    for key, value in optimizer.state.get(parameter, {}).items():
        positional = isinstance(value, Tensor) and value.shape == parameter.shape and maskable(value.dtype)
        if positional and key != "step":
            mask_(value, bits)


def forget_directions_(optimizer: torch.optim.Optimizer) -> None:
    """Start LBFGS afresh: its flat history would push newly pruned weights within a step."""
    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer.state.clear()


def check_optimizer(optimizer: object, parameters: set[int]) -> None:
    """Raise InputError unless this is a torch optimizer over some of the model's parameters (given by id)."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(f"cannot attach masks to a {type(optimizer).__name__}; give a torch.optim.Optimizer")
    owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not owned & parameters:
        raise InputError(
            f"the {type(optimizer).__name__} holds none of the model's parameters; "
            "build it from the parameters of the model that is pruned, not of a copy"
        )


def around_closure(
    args: tuple[Any, ...], kwargs: dict[str, Any], before: Callable[[], None], after: Callable[[], None]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return the arguments of `optimizer.step(closure)` with actions before and after every call of the closure.

    args: as a step pre-hook gets them, the optimizer first.
    Returns None, which leaves the arguments as they are, where there is no closure.
    """
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if closure is None:
        return None

    def between() -> Any:
        before()
        loss = closure()
        after()
        return loss

    if "closure" in kwargs:
        return args, {**kwargs, "closure": between}
    return (args[0], between, *args[2:]), kwargs
