"""The rewritten graph: every number that an operation takes follows the plan."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from axes.proving import Net, assert_same, generic_, outputs, redrawn, removal
from prunus.axes import trace
from prunus.plans import GraphModel, Plan


class Numbers(nn.Module):
    """Groups, group norm, chunk, slice, repeat, expand, a factory, and a literal that only a graph can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.GroupNorm(4, 16)
        self.depth = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.up = nn.ConvTranspose2d(16, 16, 2, 2, groups=4)
        self.shift = nn.Parameter(torch.randn(16))
        self.wide = nn.Conv2d(16, 24, 1)
        self.head = nn.Linear(12 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(torch.relu(self.depth(torch.relu(self.norm(self.stem(x))))))
        y = y + self.shift.view(1, 16, 1, 1).expand(1, 16, 8, 8) + torch.zeros(1, 16, 1, 1)
        left, right = self.wide(y).chunk(2, 1)
        return self.head((left * torch.sigmoid(right)).reshape(-1, 12 * 64))


def test_every_number_follows_and_other_batches_run() -> None:
    model, x = generic_(Numbers()), torch.randn(2, 3, 4, 4)
    for ratio in (0.3, 0.5):
        graph = trace(model, x)
        plan = Plan.from_pruned(graph, removal(graph, ratio, 0))
        assert {"stem", "wide"} <= plan.sizes.keys() | {name.split("#")[0] for name in plan.sizes}
        small = plan.apply(model)
        assert isinstance(small, GraphModel)
        assert small.stem.weight.shape[0] < 16
        assert small.norm.weight.shape[0] < 16
        new = redrawn((x,), 7)
        assert_same(outputs(plan.mask(model), new), outputs(small, new))
        assert small(torch.randn(7, 3, 4, 4)).shape == (7, 5)


class Token(nn.Module):
    """A class token for every example of the batch, zeros of the batch's size, and a literal."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.token = nn.Linear(6, 8), nn.Parameter(torch.randn(1, 1, 8))
        self.inner, self.head = nn.Linear(8, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), self.embed(x)], 1)
        hidden = torch.relu(self.inner(tokens)) + torch.zeros(x.shape[0], 1, 1)
        hidden = hidden.reshape(-1, 1, 12).expand(-1, 2, 12)[:, 1]  # batch and tokens as one dimension, passed on
        first, second = hidden.split([5, 7], -1)  # literals: only a graph knows their new sizes
        return self.head(torch.cat([second, first], -1).reshape(-1, 4, 12)[:, 0])


def test_a_token_is_expanded_to_the_batch_at_hand() -> None:
    model, x = generic_(Token()), torch.randn(2, 3, 6)
    graph = trace(model, x)
    plan = Plan.from_pruned(graph, removal(graph, 0.5, 0))
    small = plan.apply(model)
    assert isinstance(small, GraphModel)
    new = (torch.randn(5, 3, 6),)
    assert_same(outputs(plan.mask(model), new), outputs(small, new))


def test_graph_trains_through_what_the_class_wrote_in_place() -> None:
    """The gradient of a softmax needs its result, which a mask is written into."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = self.a(x).softmax(1)
        with torch.no_grad():
            mask = x[:, :, :1] > 0
        return self.c(torch.relu(self.b(y.masked_fill_(mask, 0.0))).view(2, 5, 8))

    model = generic_(Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 8), c=nn.Linear(8, 3)))
    graph = trace(model, torch.randn(2, 5, 4))
    small = Plan.from_pruned(graph, removal(graph, 0.5, 0)).apply(model)
    assert isinstance(small, GraphModel)
    small(torch.randn(2, 5, 4)).square().sum().backward()
    assert all(p.grad is not None for p in small.parameters())


def literal(self: Any, x: Tensor) -> Tensor:
    h = self.drop(self.norm(self.a(x)).relu()).view(-1, 16)
    return self.b(h + torch.zeros(x.shape[0], 16, dtype=x.dtype) + 2 * x.new_ones(1, 16))


def thinned_twice() -> tuple[nn.Module, list[GraphModel]]:
    parts = {"a": nn.Linear(4, 16), "norm": nn.BatchNorm1d(16), "drop": nn.Dropout(0.5)}
    model = generic_(Net(literal, **parts, b=nn.Linear(16, 3)))
    model.train()
    model.norm.eval()
    found: list[GraphModel] = []
    for _ in range(2):
        graph = trace(found[-1] if found else model, torch.randn(4, 4))
        small = Plan.from_pruned(graph, removal(graph, 0.5, 0)).apply(graph.model)
        assert isinstance(small, GraphModel)
        found.append(small)
    return model, found


def test_a_graph_of_a_graph_trains_by_the_flags_of_the_modules() -> None:
    _, found = thinned_twice()
    for small in found:
        assert [path for path, module in small.named_modules() if not module.training] == ["norm"]
        mean = small.get_buffer("norm.running_mean").clone()
        x = torch.randn(4, 4)
        assert not torch.equal(small(x), small(x))  # dropout is on
        assert torch.equal(small.get_buffer("norm.running_mean"), mean)  # the batch norm is off


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_constants_in_the_models_dtype_follow_a_cast(dtype: torch.dtype) -> None:
    x = torch.randn(4, 4)
    for small in thinned_twice()[1]:
        want = small.eval()(x)
        got = pickle.loads(pickle.dumps(small)).to(dtype)(x.to(dtype))
        assert got.dtype is dtype
        torch.testing.assert_close(got.float(), want, rtol=0.05, atol=0.05)
