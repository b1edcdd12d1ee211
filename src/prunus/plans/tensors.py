"""A model's tensors by name, and pieces cut out of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Cut = Mapping[int, NDArray[Any]]


def cut(tensor: Tensor, edit: Cut) -> Tensor:
    """Return the kept positions of a tensor, dimension by dimension, laid out in memory in the tensor's own order."""
    smaller = tensor
    for dim, positions in edit.items():
        smaller = smaller.index_select(dim, torch.from_numpy(positions).to(tensor.device))
    if tensor.layout is not torch.strided:  # the sparse gradient of an embedding
        return smaller
    strides = _strides_like(tensor, smaller.shape)
    out = torch.empty_strided(smaller.shape, strides, dtype=tensor.dtype, device=tensor.device)
    return out.copy_(smaller)


def _strides_like(tensor: Tensor, shape: torch.Size) -> list[int]:
    """Return dense strides in the order of `tensor`'s, so that channels_last stays what kernels recognise.

    Dimensions of size 1 go behind others of their stride: a one-channel stem in channels_last is (9, 1, 3, 1), and
    as (9, 9, 3, 1) it made the whole net run a fifth slower.
    """
    order = sorted(range(tensor.dim()), key=lambda i: (tensor.stride(i), tensor.shape[i] != 1, -i))
    strides, step = [0] * tensor.dim(), 1
    for dim in order:
        strides[dim] = step
        step *= shape[dim]
    return strides


def keep_mask(shape: torch.Size, edit: Cut) -> Tensor:
    """Return a boolean mask, True where no dimension removes the element."""
    mask = torch.ones(shape, dtype=torch.bool)
    for dim, positions in edit.items():
        line = torch.zeros(shape[dim], dtype=torch.bool)
        line[torch.from_numpy(positions)] = True
        mask &= line.view([-1 if i == dim else 1 for i in range(len(shape))])
    return mask


def named_state(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer under each of its names, ties included."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
