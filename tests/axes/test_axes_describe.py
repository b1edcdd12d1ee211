"""What a graph says of itself: kinds, costs, exactness, equal sets, frozen dimensions, each in one line."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from axes.proving import Net
from prunus import oneshot, zoo
from prunus.axes import exactness_of, trace


def gated(norm: type[nn.Module]) -> nn.Module:
    """A residual stream of 8 under two norms, with a feed-forward of 12 whose gate and value are one map's halves."""

    def forward(s: Net, x: Tensor) -> Tensor:
        x = s.a(x)
        gate, up = s.up(s.n(x)).chunk(2, -1)
        return s.o(s.m(x + s.down(functional.silu(gate) + up)))

    return Net(
        forward, a=nn.Linear(4, 8), n=norm(8), up=nn.Linear(8, 24), down=nn.Linear(12, 8), m=norm(8), o=nn.Linear(8, 3)
    )


def test_a_line_has_kind_size_exactness_members_cost_and_makers() -> None:
    """Of `up`: a unit is a row of 8 and a bias, and a column of 8 in `down`."""
    lines = str(trace(gated(nn.RMSNorm), torch.randn(2, 4), inexact="compensate")).splitlines()
    assert lines[0].startswith("2 groups, 403 parameters, ")
    assert "  a: 8 hidden units, compensated: RMSNorm is rescaled; 8 members; one costs 47 parameters, " in lines[1]
    assert lines[1].endswith("; made by a.weight, down.weight")
    assert "up: 12 ffn units, exact; 3 members; one costs 26 parameters, 48 MACs; made by up.weight" in lines[2]


def test_exactness_names_the_statistic_and_its_line() -> None:
    graph = trace(gated(nn.LayerNorm), torch.randn(2, 4), inexact="allow")
    words = exactness_of(graph.context, graph["a"])
    assert words.startswith("inexact: a statistic runs over fewer units (aten.layer_norm at test_axes_describe.py:")
    assert exactness_of(graph.context, graph["up"]) == "exact"


def attention(s: Net, x: Tensor) -> Tensor:
    q, k, v = (t.view(2, 5, 2, 4).transpose(1, 2) for t in s.qkv(x).chunk(3, -1))
    return s.o(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_attention_keeps_its_scale_in_words() -> None:
    model = Net(attention, qkv=nn.Linear(6, 24), o=nn.Linear(8, 3))
    graph = trace(model, torch.randn(2, 5, 6), inexact="compensate")
    said = {group.kind: exactness_of(graph.context, group) for group in graph.groups}
    assert "compensated: attention keeps its scale" in {exactness_of(graph.context, g) for g in graph.groups}
    assert said["head"] == "exact"


def test_equal_groups_and_frozen_dimensions_have_their_lines_in_graph_and_plan() -> None:
    def forward(s: Net, x: Tensor) -> Tensor:
        first, second = s.a(x).chunk(2, -1)
        return s.e(first) + s.f(second)

    model = Net(forward, a=nn.Linear(5, 16), e=nn.Linear(8, 3), f=nn.Linear(8, 3))
    graph = trace(model, torch.randn(2, 5))
    plan = oneshot.plan(graph, ratio=0.5)
    for text in (str(graph), plan.explain()):
        assert "  a, a#2 must keep equally many units" in text.splitlines()
        assert "  a.weight dim 1 (5) is frozen: it is an input of the model (args_0)" in text.splitlines()
    assert "  a: keeps 4 of 8 features (exact; 3 members; one costs 9 parameters, 16 MACs)" in plan.explain()


def test_why_names_the_residual_stream_of_a_resnet18() -> None:
    """Stage four: the last convolutions of both blocks and the projection make its 512 channels; `fc` reads them."""
    graph = trace(zoo.build("resnet18"), torch.randn(2, 3, 64, 64))
    said = graph.why("layer4.1.conv2.weight", 0)
    assert said == "layer4.1.conv2.weight dim 0 belongs to layer4.0.conv2 (512 units, 17 members)"
    assert {m.param for m in graph["layer4.0.conv2"].members if m.role == "out"} == {
        "layer4.0.conv2.weight", "layer4.0.downsample.0.weight", "layer4.1.conv2.weight",
    }  # fmt: skip
    assert "output of the model" in graph.why("fc.weight", 0)
    assert all(len(line) < 250 for line in str(graph).splitlines())
