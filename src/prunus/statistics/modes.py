"""Run a model without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from prunus.axes import unwrapped
from prunus.plans import named_state


@contextmanager
def undisturbed(model: nn.Module, *, gradients: bool = False) -> Iterator[None]:
    """Run in eval mode, with gradients of all parameters where they are wanted; put modes, flags and buffers back."""
    with evaluating(model, gradients=gradients), same_buffers(model):
        yield


@contextmanager
def evaluating(model: nn.Module, *, gradients: bool = False) -> Iterator[None]:
    """Run in eval mode, with gradients of all parameters where they are wanted; put modes and flags back."""
    modes = {module: module.training for module in model.modules()}
    flags = {parameter: parameter.requires_grad for parameter in model.parameters() if parameter.is_leaf}
    fast_path = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)  # it reads weights without any function that could be watched
    try:
        if gradients:
            for parameter in flags:
                parameter.requires_grad_(parameter.is_floating_point())
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module, mode in modes.items():
            module.training = mode
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


@contextmanager
def same_buffers(model: nn.Module) -> Iterator[None]:
    """Put buffers back that a forward pass counts or caches in."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers and buffer.shape == buffers[name].shape:
                    buffer.copy_(buffers[name])


@contextmanager
def restored(model: nn.Module, names: Iterable[str] = ()) -> Iterator[set[str]]:
    """Put back, bit for bit, what pruning and evaluation may change: tensors of these names, all buffers, the modes.

    Yields a set; what had to be put back is in it afterwards.
    """
    plain = unwrapped(model)
    tensors = named_state(plain)
    saved = {n: tensors[n].detach().clone() for n in {*names, *(name for name, _ in plain.named_buffers())}}
    modes = [(module, module.training) for module in model.modules()]
    changed = set[str]()
    try:
        yield changed
    finally:
        found = named_state(plain)
        changed |= {name for name, value in saved.items() if _put_back(found.get(name, tensors[name]), value)}
        for module, mode in modes:
            module.training = mode


def _put_back(tensor: Tensor, value: Tensor) -> bool:
    """Give a tensor a value again, and tell whether it had another; it stays on the device to which it was moved."""
    value = value.to(tensor.device)
    is_same = tensor.dtype == value.dtype and torch.equal(tensor, value)
    if tensor.dtype == value.dtype and tensor.shape == value.shape:
        with torch.no_grad():
            tensor.copy_(value)  # also where they are equal, as 0 and -0 are
    else:
        tensor.data = value
    return not is_same


def device_of(model: nn.Module) -> torch.device:
    """Return where the model's parameters are; the CPU where it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))
