"""Numbers that code computes from sizes of tensors: what they size stays equal, so that the class follows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from axes.proving import check, generic_, thin
from prunus.axes import trace


class Attention(nn.Module):
    """As diffusers has it: the width of a head is read off the keys and sizes queries, keys and values.

    heads: 1 for a single head. own: whether the values read a width of their own.
    """

    def __init__(self, heads: int = 4, *, scale: float | None = 0.5, own: bool = False) -> None:
        super().__init__()
        self.heads, self.scale, self.own = heads, scale, own
        self.q, self.k, self.v = (nn.Linear(6, 32) for _ in range(3))
        self.out = nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        q, k, v = self.q(x), self.k(x), self.v(x)
        inner = k.shape[-1]
        width = inner // self.heads
        values = v.shape[-1] // self.heads if self.own else width
        q, k = (y.view(batch, -1, self.heads, width).transpose(1, 2) for y in (q, k))
        v = v.view(batch, -1, self.heads, values).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.out(mixed.transpose(1, 2).reshape(batch, -1, self.heads * values))


def tokens() -> Tensor:
    return torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("heads", [1, 4])
def test_widths_that_one_number_off_a_shape_sizes_stay_equal_and_the_class_follows(heads: int) -> None:
    graph = check(Attention(heads), tokens(), own_class=True)
    assert graph.equal == ((("q#2", "v") if heads > 1 else ("q", "v")),)


def test_heads_whose_scale_keeps_their_width_keep_that_of_the_values_too() -> None:
    graph = check(Attention(scale=None), tokens(), own_class=True)
    assert [(group.kind, group.size) for group in graph.groups] == [("head", 4)]
    reasons = [leaf.reason or "" for leaf in graph.context.state["v.weight"].dims[0].leaves()]
    assert any("one number that code reads off a shape sizes it and an axis that is frozen" in why for why in reasons)


def test_widths_that_are_read_off_tensors_of_their_own_are_not_tied() -> None:
    graph = check(Attention(own=True), tokens(), own_class=True)
    assert graph.equal == ()
    assert len(graph.groups) == 3


def test_a_size_that_never_changes_ties_nothing() -> None:
    graph = trace(generic_(Attention(1, scale=None)), tokens())
    assert [group.name for group in graph.groups] == ["v"]
    thin(graph, graph.model, 0.5)


def test_compensated_widths_and_those_of_values_go_together() -> None:
    graph = trace(generic_(Attention(scale=None)).double(), tokens().double(), inexact="compensate")
    assert len(graph.equal) == 1
    _, small = thin(graph, graph.model, 0.5)
    assert type(small) is Attention
