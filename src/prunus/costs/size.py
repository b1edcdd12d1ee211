"""What a model weighs: parameters, non-zeros, bytes."""

from __future__ import annotations

from collections.abc import Iterator

import safetensors.torch
import torch
from torch import Tensor, nn


def parameters(model: nn.Module) -> int:
    """Count the parameters; a tied one counts once."""
    return sum(parameter.numel() for parameter in _owned(model))


def nonzeros(model: nn.Module) -> int:
    """Count the parameters that are not zero; a tied one counts once."""
    return sum(int(torch.count_nonzero(parameter)) for parameter in _owned(model))


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters, stored densely in their own dtypes; a tied one counts once, buffers do not count."""
    return sum(parameter.numel() * parameter.element_size() for parameter in _owned(model))


def file_bytes(model: nn.Module) -> int:
    """Bytes of a safetensors file of the model's state: parameters and buffers, a tied one once, with the header.

    Nothing is written to disk; memory for one more copy of the model is needed meanwhile.
    """
    seen: set[tuple[object, ...]] = set()
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and (place := _place(value)) not in seen:
            seen.add(place)
            # A copy, since safetensors refuses tensors that overlap in one storage.
            state[name] = value.detach().clone(memory_format=torch.contiguous_format)
    return len(safetensors.torch.save(state))


def _owned(model: nn.Module) -> Iterator[Tensor]:
    """Every parameter once, also where two Parameter objects share one place in memory."""
    seen: set[tuple[object, ...]] = set()
    for parameter in model.parameters():
        place = _place(parameter)
        if place not in seen:
            seen.add(place)
            yield parameter.detach()


def _place(tensor: Tensor) -> tuple[object, ...]:
    """Where a tensor's elements lie; tensors without storage (meta, empty) are all different."""
    if tensor.device.type == "meta" or tensor.numel() == 0:
        return (id(tensor),)
    return (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
