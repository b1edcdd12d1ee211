"""Heads that get narrower where attention reads its scale off them: queries or keys are multiplied instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from axes.proving import Net, assert_same, generic_, outputs, thin
from prunus.axes import Graph, trace
from prunus.plans import GraphModel, Plan, load, save, verify

WIDTH, HEADS, PLACES = 6, 2, 8
INNER = HEADS * PLACES


def attend(self: Any, q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
    return self.o(functional.scaled_dot_product_attention(q, k, v, **kwargs).transpose(1, 2).flatten(2))


def heads(self: Any, x: Tensor) -> Tensor:
    return x.view(*x.shape[:2], -1, self.places).transpose(1, 2)


def separate(self: Any, x: Tensor) -> Tensor:
    return attend(self, *(heads(self, m(x)) for m in (self.q, self.k, self.v)))


def packed(self: Any, x: Tensor) -> Tensor:
    return attend(self, *self.qkv(x).view(*x.shape[:2], 3, self.heads, self.places).permute(2, 0, 3, 1, 4).unbind(0))


def interleaved(self: Any, x: Tensor) -> Tensor:
    qkv = self.qkv(x).view(*x.shape[:2], self.heads, 3, self.places)
    return attend(self, *(qkv[..., i, :].transpose(1, 2) for i in range(3)))


def shared_keys(self: Any, x: Tensor) -> Tensor:
    k, v = (heads(self, m(x)).repeat_interleave(self.heads, dim=1) for m in (self.k, self.v))
    return attend(self, heads(self, self.q(x)), k, v)


def rotary(self: Any, x: Tensor) -> Tensor:
    q, k, v = (heads(self, m(x)) for m in (self.q, self.k, self.v))
    angles = torch.arange(x.shape[1]).to(x)[:, None] * self.frequencies
    cos, sin = (torch.cat([t, t], dim=-1) for t in (angles.cos(), angles.sin()))

    def turned(t: Tensor) -> Tensor:
        left, right = t.chunk(2, dim=-1)
        return t * cos + torch.cat([-right, left], dim=-1) * sin

    return attend(self, turned(q), turned(k), v)


def normed(self: Any, x: Tensor) -> Tensor:
    q, k, v = (heads(self, m(x)) for m in (self.q, self.k, self.v))
    return attend(self, self.norm(q), k, v)


class ShiftedNorm(nn.Module):
    """RMSNorm as Gemma writes it: the weight is stored less one."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.zeros(size)), 1e-2

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * (1.0 + self.weight)


def model_of(forward: Callable[..., Any], **parts: Any) -> nn.Module:
    maps = {name: nn.Linear(WIDTH, INNER) for name in "qkv"} | {"o": nn.Linear(INNER, 3)}
    model = Net(forward, **{**maps, **parts})
    model.places, model.heads = PLACES, HEADS  # type: ignore[assignment]
    return generic_(model).double()  # from the start: a weight that is multiplied in float32 is rounded there


def narrowed(model: nn.Module) -> tuple[Graph, Plan, nn.Module]:
    """Take the first half of the places of each head, and compare with the masked model."""
    x = torch.randn(2, 4, WIDTH, dtype=torch.float64)
    graph = trace(model, x, inexact="compensate")
    pruned = {g.name: torch.arange(g.size) < g.size // 2 for g in graph.groups if g.kind == "head dim"}
    plan = Plan.from_pruned(graph, pruned)
    small = plan.apply(model)
    y = torch.randn(3, 4, WIDTH, dtype=torch.float64)
    assert_same(outputs(plan.mask(model), (y,)), outputs(small, (y,)))
    return graph, plan, small


FOLLOWED = {
    "separate": lambda: model_of(separate),
    "without biases": lambda: model_of(separate, **{n: nn.Linear(WIDTH, INNER, bias=False) for n in "qkv"}),
    "packed": lambda: model_of(packed, qkv=nn.Linear(WIDTH, 3 * INNER)),
    "interleaved": lambda: model_of(interleaved, qkv=nn.Linear(WIDTH, 3 * INNER)),
    "shared keys": lambda: model_of(shared_keys, k=nn.Linear(WIDTH, PLACES), v=nn.Linear(WIDTH, PLACES)),
    "rotary": lambda: model_of(rotary, frequencies=torch.rand(PLACES // 2)),
    "norm of queries": lambda: model_of(normed, norm=nn.RMSNorm(PLACES, eps=1e-2)),
    "shifted norm of queries": lambda: model_of(normed, norm=ShiftedNorm(PLACES)),
    "torch's own": lambda: model_of(
        lambda self, x: self.o(self.attn(x, x, x, need_weights=False)[0]),
        attn=nn.MultiheadAttention(WIDTH, 2, batch_first=True),
        o=nn.Linear(WIDTH, 3),
    ),
}


@pytest.mark.parametrize("build", FOLLOWED.values(), ids=FOLLOWED)
def test_the_users_class_keeps_its_scores_when_heads_get_narrower(build: Callable[[], nn.Module]) -> None:
    model = build()
    graph = trace(model, torch.randn(2, 4, WIDTH, dtype=torch.float64), inexact="compensate")
    for seed, ratio in enumerate((0.3, 0.5)):
        _, small = thin(graph, model, ratio, seed)
        assert type(small) is type(model)


def test_queries_are_multiplied_by_the_root_of_the_share_of_places_left() -> None:
    model = model_of(separate)
    _, _, small = narrowed(model)
    left = torch.tensor([4, 5, 6, 7, 12, 13, 14, 15])
    for name, factor in (("q.weight", 0.5**0.5), ("q.bias", 0.5**0.5), ("k.weight", 1.0), ("k.bias", 1.0)):
        torch.testing.assert_close(small.get_parameter(name), model.get_parameter(name)[left] * factor)


def test_of_packed_rows_those_of_queries_are_multiplied() -> None:
    model = model_of(interleaved, qkv=nn.Linear(WIDTH, 3 * INNER))
    _, plan, small = narrowed(model)
    dense = model.get_parameter("qkv.weight").view(HEADS, 3, PLACES, WIDTH)[:, :, 4:]
    factors = torch.tensor([0.5**0.5, 1.0, 1.0]).view(1, 3, 1, 1)
    got = small.get_parameter("qkv.weight").view(HEADS, 3, 4, WIDTH)
    torch.testing.assert_close(got, dense * factors)
    torch.testing.assert_close(plan.cut(model.state_dict())["qkv.weight"], small.get_parameter("qkv.weight"))


def test_a_norm_of_queries_needs_no_other_weight_since_both_factors_cancel() -> None:
    model = model_of(normed, norm=nn.RMSNorm(PLACES, eps=1e-2))
    _, _, small = narrowed(model)
    torch.testing.assert_close(small.get_parameter("norm.weight"), model.get_parameter("norm.weight")[4:])
    torch.testing.assert_close(small.norm.eps, 2e-2)


def test_keys_are_multiplied_where_queries_go_elsewhere_too() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        q, k, v = (heads(self, m(x)) for m in (self.q, self.k, self.v))
        return attend(self, q, k, v) + q.square().sum(-1).mean(1, keepdim=True).transpose(1, 2)

    model = model_of(forward)
    _, _, small = narrowed(model)
    assert type(small) is type(model)
    torch.testing.assert_close(small.get_parameter("q.bias"), model.get_parameter("q.bias").view(2, 8)[:, 4:].flatten())


def square(self: Any, x: Tensor) -> Tensor:
    q = heads(self, self.q(x))
    return attend(self, q, q, heads(self, self.v(x)))


def unit(self: Any, x: Tensor) -> Tensor:
    q, k, v = (heads(self, m(x)) for m in (self.q, self.k, self.v))
    return attend(self, functional.normalize(q, dim=-1), functional.normalize(k, dim=-1), v)


def shifted(self: Any, x: Tensor) -> Tensor:
    q, k, v = (heads(self, m(x)) for m in (self.q, self.k, self.v))
    return attend(self, q + q.sign(), k + k.sign(), v)


def twice(self: Any, x: Tensor) -> Tensor:
    return separate(self, x) + separate(self, x.flip(1)).flip(1)


@pytest.mark.parametrize("forward", [square, unit, shifted, twice])
def test_where_no_parameter_can_make_up_for_it_the_graph_keeps_the_dense_scale(forward: Callable[..., Any]) -> None:
    _, _, small = narrowed(model_of(forward))
    assert type(small) is GraphModel


def test_two_cuts_after_each_other_multiply_by_both_and_are_saved_and_verified(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return model_of(packed, qkv=nn.Linear(WIDTH, 3 * INNER))

    model = build()
    _, _, first = narrowed(model)
    _, _, second = narrowed(first)
    got = second.get_parameter("qkv.weight").view(3, HEADS, 2, WIDTH)
    want = model.get_parameter("qkv.weight").view(3, HEADS, PLACES, WIDTH)[:, :, 6:]
    torch.testing.assert_close(got, want * torch.tensor([0.5, 1.0, 1.0]).view(3, 1, 1, 1))
    save(second, tmp_path / "small.prunus")
    again = load(tmp_path / "small.prunus", build)
    x = torch.randn(2, 4, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(again(x), second(x))
    assert verify(model, tmp_path / "small.prunus", x).holds
    assert verify(model, first, x).changed == ()
