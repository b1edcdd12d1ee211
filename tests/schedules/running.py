"""Nets and epochs that the tests of the scheduler share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from prunus.axes import trace
from prunus.schedules import (
    Policy,
    PruningScheduler,
)

STEPS = 3


def make_mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 4))


def make_convnet() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip


def make_sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)


def make_data(shape: tuple[int, ...], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(STEPS):
        yield torch.randn(16, *shape, generator=generator), torch.randint(0, 4, (16,), generator=generator)


def train_one_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, shape: tuple[int, ...] = (10,)
) -> None:
    for x, y in make_data(shape, epoch):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def count_zeros(tensor: Tensor) -> int:
    return int((tensor == 0).sum())


def make_scheduler(*policies: Policy, **options: Any) -> tuple[nn.Module, torch.optim.Optimizer, PruningScheduler]:
    model = make_mlp()
    optimizer = make_sgd(model)
    return model, optimizer, PruningScheduler(model, optimizer, policies, **options)


def make_coupled(policy: Policy, **options: Any) -> tuple[nn.Module, torch.optim.Optimizer, PruningScheduler, Any]:
    model = make_convnet()
    graph = trace(model, torch.randn(2, 1, 8, 8))
    optimizer = make_sgd(model)
    return model, optimizer, PruningScheduler(model, optimizer, [policy], graph=graph, **options), graph
