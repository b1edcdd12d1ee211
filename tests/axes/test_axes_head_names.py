"""Attention spelled out in the ways that people spell it: heads are called heads, and go from the class itself."""

import pytest
import torch
from torch import nn

from prunus import plan, trace


class Attention(nn.Module):
    """Four heads of eight; `how` says by which operations."""

    def __init__(self, how):
        super().__init__()
        self.how, self.heads, self.width = how, 4, 8
        self.q, self.k, self.v = (nn.Linear(32, 32) for _ in range(3))
        self.out = nn.Linear(32, 32)

    def split(self, x):
        return x.view(x.shape[0], -1, self.heads, self.width)

    def folded(self, x):
        return x.transpose(0, 1).reshape(x.shape[1], x.shape[0] * self.heads, self.width).transpose(0, 1)

    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        scale = self.width**-0.5
        if self.how == "matmul":
            q, k, v = (self.split(t).transpose(1, 2) for t in (q, k, v))
            y = ((q @ k.transpose(2, 3)) * scale).softmax(-1) @ v
            y = y.transpose(1, 2)
        elif self.how == "einsum":
            q, k, v = map(self.split, (q, k, v))
            y = torch.einsum("bhqk,bkhd->bqhd", torch.einsum("bqhd,bkhd->bhqk", q * scale, k).softmax(-1), v)
        elif self.how == "folded":
            q, k, v = map(self.folded, (q, k, v))
            y = torch.bmm(torch.bmm(q * scale, k.transpose(1, 2)).softmax(-1), v).transpose(0, 1)
            y = y.reshape(x.shape[1], x.shape[0], self.heads * self.width).transpose(0, 1)
        else:
            q, k, v = (self.split(t).transpose(1, 2).flatten(0, 1) for t in (q, k, v))
            bias = torch.zeros(1, x.shape[1], x.shape[1])
            y = torch.bmm(torch.baddbmm(bias, q, k.transpose(1, 2), alpha=scale).softmax(-1), v)
            y = y.view(x.shape[0], self.heads, -1, self.width).transpose(1, 2)
        return self.out(y.reshape(x.shape[0], -1, self.heads * self.width))


class Net(nn.Module):
    """A norm over its width, so that heads alone may go."""

    def __init__(self, how):
        super().__init__()
        self.embed, self.attention, self.norm = nn.Linear(6, 32), Attention(how), nn.LayerNorm(32)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        x = self.embed(x)
        return self.head(self.norm(x + self.attention(x)).mean(1))


@pytest.mark.parametrize("ratio", [0.3, 0.5])
@pytest.mark.parametrize("how", ["matmul", "einsum", "folded", "baddbmm"])
def test_heads_are_called_heads_and_go_from_the_class(how, ratio):
    torch.manual_seed(0)
    model = Net(how).eval()
    graph = trace(model, torch.randn(2, 5, 6))
    assert [(g.name, g.kind, g.size) for g in graph.groups if g.kind == "head"] == [("attention.q", "head", 4)]
    small = plan(graph, ratio=ratio, targets={"kind": "head"}).apply(model)
    assert type(small) is Net
    assert small.attention.q.out_features == 8 * (4 - round(4 * ratio))


def test_a_gate_or_a_product_with_a_weight_has_no_heads():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.mix = nn.Linear(6, 8), nn.Linear(6, 8), nn.Parameter(torch.randn(8, 5, 5))

        def forward(self, x):
            gated = torch.einsum("btc,bc->btc", self.a(x), self.b(x).mean(1).sigmoid())
            return torch.einsum("btc,cts->bsc", gated, self.mix)

    graph = trace(Gated().eval(), torch.randn(2, 5, 6))
    assert {group.kind for group in graph.groups} <= {"feature"}
