"""What every stage of a case needs: generic weights, other inputs, outputs in float64, a distance between them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.plans.float64 import float64_code

TOLERANCE = 1e-10


@torch.no_grad()
def generic_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Mix every parameter and running statistic with noise of its own scale: no bias is zero, no gain is one.

    Matrices get at least the scale 1/sqrt(fan in), so that signals reach the end of a deep model; layer scales of 1e-6
    and weights that start at zero get 0.1. Other buffers (position tables, frequencies) mean something: they stay.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32).to(parameter.dtype)
            _mix_(parameter.nan_to_num_(0.0, 0.0, 0.0), noise)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.add_(torch.randn(buffer.shape, generator=generator).abs().to(buffer.dtype) * 0.2)
    return model


def _mix_(parameter: Tensor, noise: Tensor) -> None:
    spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
    if spread < 1e-4:
        parameter.add_(0.1 * noise)
    elif parameter.dim() < 2:
        parameter.add_(0.5 * spread * noise)
    else:  # half its own, half noise, so that the scale is as before: growth from layer to layer costs digits
        least = (parameter.shape[0] / parameter.numel()) ** 0.5
        parameter.mul_(max(spread, least) / spread).add_(max(spread, least) * noise).mul_(0.5**0.5)


def redrawn(inputs: Any, seed: int) -> Any:
    """Return inputs of the same kind with other values: floats drawn anew, tokens shuffled."""
    generator = torch.Generator().manual_seed(seed)

    def redraw(path: Any, x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if x.is_floating_point():
            return torch.randn(x.shape, generator=generator)
        if "ids" in str(path):
            return x.flatten()[torch.randperm(x.numel(), generator=generator)].reshape(x.shape)
        return x

    return pytree.tree_map_with_path(redraw, inputs)


def tensors(value: Any) -> list[Tensor]:
    """Return every tensor of nested outputs."""
    return [x for x in pytree.tree_leaves(value) if isinstance(x, Tensor)]


def in_float64(inputs: Any) -> Any:
    """Return the same inputs with floats in float64."""
    return pytree.tree_map(lambda x: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x, inputs)


@torch.no_grad()
def outputs64(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Run a copy in float64, in eval mode, and return its tensors; integers and flags as numbers."""
    double = copy.deepcopy(model).double().eval()
    for tensor in (*double.parameters(), *double.buffers()):
        if tensor.is_complex():  # which double() leaves as they are
            tensor.data = tensor.data.to(torch.complex128)
    args, kwargs = in_float64(inputs)
    torch.manual_seed(0)  # some models draw numbers in eval mode too
    with float64_code():
        found = tensors(double(*args, **kwargs))
    return [x if x.is_complex() else x.double() for x in found]


def apart(want: list[Tensor], got: list[Tensor]) -> float:
    """Return the largest difference of two lists of tensors, each over its own largest element (at least 1).

    inf where shapes differ, or where one is not finite.
    """
    if [x.shape for x in want] != [x.shape for x in got]:
        return float("inf")
    worst = 0.0
    for a, b in zip(want, got, strict=True):
        if a.numel():
            difference = float((a - b).abs().max()) / max(float(a.abs().max()), 1.0)
            worst = max(worst, difference if difference == difference else float("inf"))
    return worst


def train_one_step(model: nn.Module, inputs: Any) -> None:
    """Take one step of plain descent on the sum of squares of every output that depends on parameters."""
    args, kwargs = inputs
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    found = [y for y in tensors(model(*args, **kwargs)) if y.requires_grad]
    torch.stack([y.abs().square().mean() for y in found]).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    model.eval()


def num_parameters(model: nn.Module) -> int:
    """Count parameters, shared ones once."""
    return sum(p.numel() for p in model.parameters())
