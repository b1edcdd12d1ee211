"""Cut tensors out of a module: parameters keep their identity, optimizer state and module numbers follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunus.axes import Surgery
from prunus.errors import InputError
from prunus.plans.attention import ThinnedMultiheadAttention
from prunus.plans.numbers import new_numbers, set_number_
from prunus.plans.tensors import Cut, cut, named_state


@torch.no_grad()
def thin_(model: nn.Module, surgery: Surgery, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Cut a model's tensors in place, with gradients and optimizer state, and set the numbers that modules hold.

    Everything that can fail is computed first, so an error leaves the model as it was.
    """
    state = named_state(model)
    smaller: dict[Tensor, Tensor] = {}
    gradients: dict[Tensor, Tensor] = {}
    by_storage: dict[tuple[object, ...], Tensor] = {}
    for name, edit in surgery.edits.items():
        tensor = state[name]
        if tensor in smaller:
            continue
        place = (tensor.data_ptr() or name, tensor.shape, tensor.stride())
        if place not in by_storage:  # parameters that share memory go on sharing it
            by_storage[place] = _rescaled(cut(tensor.detach(), edit), surgery.scales.get(name))
        smaller[tensor] = by_storage[place]
        if tensor.grad is not None:
            gradients[tensor] = cut(tensor.grad, edit)
    moments = _cut_optimizer(optimizer, {state[name]: edit for name, edit in surgery.edits.items()})
    numbers = new_numbers(model, surgery)
    for tensor, small in smaller.items():
        tensor.grad = None
        tensor.data = small
        tensor.grad = gradients.get(tensor)
    for slot, key, small in moments:
        slot[key] = small
    for path, value in numbers.items():
        set_number_(model, path, value)
    for module in model.modules():
        if type(module) is nn.MultiheadAttention:
            ThinnedMultiheadAttention.adopt_(module)


def _rescaled(tensor: Tensor, scale: tuple[float, float] | None) -> Tensor:
    """Let a norm's weight make up for units that its mean no longer counts."""
    return tensor if scale is None else (tensor + scale[1]) * scale[0] - scale[1]


def _cut_optimizer(
    optimizer: torch.optim.Optimizer | None, edits: Mapping[Tensor, Cut]
) -> list[tuple[dict[str, Any], str, Tensor]]:
    """Cut state tensors that extend along a parameter's dimensions: full moments, and factored ones of size 1.

    Raises InputError for state in any other shape, such as the flat history of LBFGS.
    """
    if optimizer is None:
        return []
    found = []
    for parameter, edit in edits.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, Tensor) or value.numel() <= 1:
                continue
            if isinstance(optimizer, torch.optim.LBFGS) or not _extends_along(value, parameter):
                raise InputError(
                    f"{type(optimizer).__name__} keeps {key!r} of shape {tuple(value.shape)} for a parameter of shape "
                    f"{tuple(parameter.shape)}, which cannot be cut along; thin first, then build a new optimizer"
                )
            own = {dim: kept for dim, kept in edit.items() if value.shape[dim] == parameter.shape[dim]}
            found.append((optimizer.state[parameter], key, cut(value, own)))
    return found


def _extends_along(value: Tensor, parameter: Tensor) -> bool:
    pairs = zip(value.shape, parameter.shape, strict=False)
    return value.dim() == parameter.dim() and all(own in (1, size) for own, size in pairs)


def check_same_model(model: nn.Module, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise InputError, naming the first difference, unless the model has the tensors that were traced."""
    have = {name: tuple(tensor.shape) for name, tensor in named_state(model).items()}
    for name, shape in expected.items():
        if name not in have:
            raise InputError(f"the model has no tensor {name}, which the traced one had; trace this model itself")
        if have[name] != shape:
            raise InputError(
                f"{name} has shape {have[name]} where the traced model had {shape}; the plan was made for another "
                "model or has been applied already: trace this model itself"
            )
