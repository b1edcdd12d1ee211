"""Attention whose scale follows the size of a head: thinned in its own class, whichever way the scale is computed."""

import math

import pytest
import torch
from torch import nn

from prunus import load, plan, save, trace


class Attention(nn.Module):
    """Four heads of 16; `how` says where the scale comes from."""

    def __init__(self, how):
        super().__init__()
        self.how, self.heads, self.size = how, 4, 16
        self.q, self.k, self.v = (nn.Linear(32, 64) for _ in range(3))
        self.out = nn.Linear(64, 32)
        self.stored = self.size**-0.5

    def scale(self, keys):
        if self.how == "stored":
            return self.stored
        return 1 / math.sqrt(keys.shape[-1]) if self.how == "shape" else self.size**-0.5

    def forward(self, x):
        batch = x.shape[0]
        q, k, v = (
            layer(x).view(batch, -1, self.heads, self.size).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        if self.how == "kernel":
            y = nn.functional.scaled_dot_product_attention(q, k, v, scale=self.size**-0.5)
        elif self.how == "einsum":
            y = torch.einsum("bhqk,bhkd->bhqd", (torch.einsum("bhqd,bhkd->bhqk", q, k) * self.scale(k)).softmax(-1), v)
        else:
            y = (q @ k.transpose(2, 3) * self.scale(k)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(batch, -1, self.heads * self.size))


class Other(Attention):
    """The same code in another class."""


class Net(nn.Module):
    """Attentions under norms."""

    def __init__(self, *attentions):
        super().__init__()
        self.embed, self.attentions = nn.Linear(6, 32), nn.ModuleList(attentions)
        self.norms, self.head = nn.ModuleList(nn.LayerNorm(32) for _ in attentions), nn.Linear(32, 3)

    def forward(self, x):
        x = self.embed(x)
        for attention, norm in zip(self.attentions, self.norms, strict=True):
            x = norm(x + attention(x))
        return self.head(x.mean(1))


def net(*hows):
    torch.manual_seed(0)
    kinds = (Attention, Other, Attention)
    return Net(*(kind(how) for kind, how in zip(kinds, hows, strict=False))).eval()


CASES = [
    ("stored",),
    ("shape",),
    ("attribute",),
    ("kernel",),
    ("einsum",),
    ("stored", "shape"),
    ("attribute", "stored"),
]


@pytest.mark.parametrize("ratio", [0.3, 0.5])
@pytest.mark.parametrize("hows", CASES, ids="+".join)
def test_heads_and_their_sizes_go_from_the_class(hows, ratio, tmp_path):
    model, x = net(*hows).double(), torch.randn(2, 5, 6, dtype=torch.float64)
    made = plan(trace(model, x, inexact="compensate"), ratio=ratio)
    assert {made.graph[name].kind for name in made.kept} == {"head", "head dim"}
    small = made.apply(model)
    assert type(small) is Net
    torch.testing.assert_close(small(x), made.mask(model)(x), rtol=1e-10, atol=1e-12)

    state = made.cut(model.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in small.state_dict().items())
    unproved = made.apply(model, prove=False)
    assert all(torch.equal(state[name], tensor) for name, tensor in unproved.state_dict().items())

    save(unproved, tmp_path / "small.prunus")
    assert torch.equal(load(tmp_path / "small.prunus", net(*hows).double())(x), unproved(x))
    again = plan(trace(small, x, inexact="compensate"), ratio=0.3).apply(small)
    assert type(again) is Net


def test_where_one_class_computes_it_in_two_ways_the_graph_takes_its_place():
    model = net("attribute", "stored", "stored")
    small = plan(trace(model, torch.randn(2, 5, 6), inexact="compensate"), ratio=0.5).apply(model)
    assert type(small).__name__ == "GraphModel"


@pytest.mark.parametrize(("how", "form"), [("stored", "Net"), ("shape", "GraphModel"), ("kernel", "GraphModel")])
def test_without_leave_no_weight_is_multiplied(how, form):
    model = net(how)
    made = plan(trace(model, torch.randn(2, 5, 6)), ratio=0.5)
    small = made.apply(model)
    assert type(small).__name__ == form
    left = made.cut(model.state_dict())
    assert all(torch.equal(left[name], tensor) for name, tensor in small.state_dict().items())
    dense = {float(value) for value in model.attentions[0].q.weight.flatten()}
    assert {float(value) for value in left["attentions.0.q.weight"].flatten()} <= dense


def test_a_graph_whose_model_was_thinned_in_place_still_cuts():
    model, x = net("attribute"), torch.randn(2, 5, 6)
    graph, dense = trace(model, x, inexact="compensate"), {name: t.clone() for name, t in model.state_dict().items()}
    first, second = plan(graph, ratio=0.5), plan(graph, ratio=0.3)
    first.apply(model, inplace=True)
    left = second.sizes["attentions.0.q"] * second.sizes["attentions.0.q#2"]
    assert second.cut(dense)["attentions.0.q.weight"].shape == (left, 32)
