"""Nets, masks and steps that the tests of masks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunus.masks import MaskSet

INF, NAN = float("inf"), float("nan")


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def random_keep(tensor: Tensor, seed: int = 0) -> Tensor:
    return torch.rand(tensor.shape, generator=torch.Generator().manual_seed(seed)) > 0.5


def masked_model(model: nn.Module, optimizer: torch.optim.Optimizer, name: str) -> tuple[MaskSet, Tensor]:
    masks = MaskSet(model)
    masks.attach(optimizer)
    keep = random_keep(dict(model.named_parameters())[name])
    masks.set_("test", {name: keep})
    return masks, keep


def train_steps(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(10, 6, generator=generator)).square().sum().backward()
        optimizer.step()
