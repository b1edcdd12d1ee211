"""Regions under another mode are part of the graph: their channels are pruned like all others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from axes.proving import Net, check, conv, generic_, groups, images, removal
from prunus.axes import trace
from prunus.plans import GraphModel, Plan

WHOLE = {"c.weight:0", "c.bias:0", "d.weight:0", "d.bias:0", "d.weight:1", "e.weight:1"}


def without_gradients(self: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = self.d(self.c(x))
    return self.e(y + self.c(x))


def without_autocast(self: nn.Module, x: Tensor) -> Tensor:
    y = self.c(x)
    with torch.autocast("cpu", enabled=False):
        z, w = self.d(y.to(x.dtype)), y.relu()
    return self.e(z + w)


def nested(self: nn.Module, x: Tensor) -> Tensor:
    y = self.c(x)
    with torch.enable_grad():
        z = self.d(y)
        with torch.autocast("cpu", enabled=False):
            z = z + y
        y = z.relu()
    return self.e(y + z)


@pytest.mark.parametrize("forward", [without_gradients, without_autocast, nested])
def test_channels_pass_through_a_region(forward: object) -> None:
    graph = check(Net(forward, c=conv(3, 8), d=conv(8, 8), e=conv(8, 4)), images())  # type: ignore[arg-type]
    assert groups(graph) == {"c": (8, WHOLE)}
    assert not graph.unknown


def test_graph_of_a_model_with_a_region_runs_and_trains() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            y = self.c(x).view(2, 8, 36).relu()
        return self.e(y.transpose(1, 2))

    model = generic_(Net(forward, c=conv(3, 8), e=nn.Linear(8, 4)))
    graph = trace(model, images())
    small = Plan.from_pruned(graph, removal(graph, 0.5, 0)).apply(model)
    assert isinstance(small, GraphModel)
    small(images()).sum().backward()
    assert all(p.grad is not None for p in small.parameters())
