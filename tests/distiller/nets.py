"""Nets and shorthands that the tests of Distiller's classes share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunus.axes import Graph, trace
from prunus.criteria import criterion_names
from prunus.distiller import Window, pruner
from prunus.schedules import Policy, PruningScheduler


def make_convnet(height: int = 8, width: int = 8) -> nn.Sequential:
    """conv, norm, relu, conv, flatten, linear; biases and norm shifts away from zero."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * height * width, 4),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1)
    return net


def traced(model: nn.Module, height: int = 8, width: int = 8) -> Graph:
    return trace(model, torch.randn(2, 1, height, width))


def make_linear(rows: Sequence[Sequence[float]]) -> nn.Sequential:
    weight = torch.tensor(rows)
    net = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0], bias=False))
    net[0].weight.data = weight
    return net


def made(
    kind: str, model: nn.Module, window: Window | None = None, *, graph: Graph | None = None, **options: Any
) -> Any:
    return pruner(kind, options).policies(model, window or Window(), graph=graph)


def run(model: nn.Module, policies: Sequence[Policy], epochs: int = 0, **options: Any) -> PruningScheduler:
    """Prune, let so many epochs pass without training, and return the scheduler."""
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    scheduler = PruningScheduler(model, optimizer, policies, **options)
    for _ in range(epochs):
        scheduler.epoch_end()
    return scheduler


def zeros(tensor: Tensor) -> list[list[int]]:
    """Positions of zeros."""
    return (tensor == 0).nonzero().tolist()


def missing(name: str) -> dict[str, Any]:
    """Arguments of a mark that skips until a criterion of this name is registered."""
    return {"condition": name not in criterion_names(), "reason": f"no criterion is named {name}"}
