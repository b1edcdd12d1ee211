"""Cut tensors out of a module: parameters keep their identity, optimizer state and module numbers follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunus.axes import Surgery
from prunus.errors import InputError
from prunus.plans.changes import Changes, gradient_of
from prunus.plans.numbers import new_numbers
from prunus.plans.tensors import Cut, cut, named_state


@torch.no_grad()
def thin_(
    model: nn.Module,
    surgery: Surgery,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    masks: Mapping[str, Tensor] | None = None,
    also: Sequence[nn.Module] = (),
) -> None:
    """Cut a model's tensors in place, with gradients and optimizer state, and set the numbers that modules hold.

    masks: parameter -> boolean in the shape after the cut; False is zeroed. also: models of the same tensors that are
    cut alike. Everything is computed before anything is set, and an error leaves all of them as they were.
    """
    changes = [_changes(each, surgery, masks or {}) for each in (model, *also)]
    state = named_state(model)
    slots = _cut_optimizer(optimizer, {state[name]: edit for name, edit in surgery.edits.items()})
    gone = {p for name in surgery.dropped for p in model.get_submodule(name).parameters()}
    Changes.joined([*changes, Changes(slots=slots)]).make_()
    if optimizer is not None:
        for group in optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if parameter not in gone]
        for parameter in gone:
            optimizer.state.pop(parameter, None)


def _changes(model: nn.Module, surgery: Surgery, masks: Mapping[str, Tensor]) -> Changes:
    state = named_state(model)
    places = {name: (tensor.data_ptr() or name, tensor.shape, tensor.stride()) for name, tensor in state.items()}
    masked = {places[name]: mask for name, mask in masks.items()}
    smaller: dict[tuple[object, ...], Tensor] = {}
    found: dict[Tensor, tuple[Tensor, Tensor | None]] = {}
    for name, tensor in state.items():
        edit, mask = surgery.edits.get(name), masked.get(places[name])
        if tensor in found or (edit is None and mask is None and name not in surgery.scales):
            continue
        if places[name] not in smaller:  # parameters that share memory go on sharing it
            small = thinned(tensor.detach(), surgery, name)
            smaller[places[name]] = small if mask is None else small.masked_fill_(~mask.to(small.device), 0)
        gradient = gradient_of(tensor)
        found[tensor] = smaller[places[name]], None if gradient is None else cut(gradient, edit or {})
    return Changes(found, numbers=new_numbers(model, surgery))


def thinned(tensor: Tensor, surgery: Surgery, name: str) -> Tensor:
    """Return what is left of a dense tensor and makes up for what a mean or a root no longer counts."""
    edit = surgery.edits.get(name, {})
    small, scale = cut(tensor, edit), surgery.scales.get(name)
    if scale is None:
        return small
    multiplied = (small + scale.offset) * scale.factor - scale.offset
    if scale.rows is None:
        return multiplied
    kept = edit.get(scale.dim, np.arange(tensor.shape[scale.dim]))
    flags = torch.from_numpy(np.isin(kept, scale.rows)).to(small.device)
    return torch.where(flags.view([-1 if i == scale.dim else 1 for i in range(small.dim())]), multiplied, small)


def _cut_optimizer(
    optimizer: torch.optim.Optimizer | None, edits: Mapping[Tensor, Cut]
) -> list[tuple[dict[str, Any], str, Tensor]]:
    """Cut state tensors that extend along a parameter's dimensions: full moments, and factored ones of size 1.

    Raises InputError for state in any other shape, such as LBFGS's flat history, and for another model's optimizer.
    """
    if optimizer is None:
        return []
    if edits and not any(p in edits for group in optimizer.param_groups for p in group["params"]):
        raise InputError(
            f"the {type(optimizer).__name__} given holds none of the parameters that are cut; pass this model's own"
        )
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
