"""Grouped products of experts: their inner width goes, and they go as a whole; their tokens stay."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from axes.proving import assert_same, generic_, groups, outputs, removal
from prunus.axes import trace
from prunus.errors import ProofError
from prunus.plans import Plan
from prunus.plans.float64 import float64_code
from prunus.plans.stand_ins import grouped_mm

needs_grouped = pytest.mark.skipif(not hasattr(functional, "grouped_mm"), reason="this torch has no grouped product")


class Experts(nn.Module):
    """Each token goes to one of four experts, a gated feed-forward net; weights lie as linear layers' do."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.i, self.router, self.o = nn.Linear(5, 8), nn.Linear(8, 4), nn.Linear(8, 3)
        self.up = nn.Parameter(torch.randn(4, 2 * 16, 8))
        self.down = nn.Parameter(torch.randn(4, 16, 8))
        self.shift = nn.Parameter(torch.randn(8)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.i(x)
        chosen, order = self.router(x).argmax(-1).sort()
        ends = torch.histc(chosen.float(), bins=4, min=0, max=3).cumsum(0, dtype=torch.int32)
        both = functional.grouped_mm(x[order], self.up.transpose(1, 2), offs=ends)
        gate, up = both.chunk(2, -1)
        out = functional.grouped_mm(functional.silu(gate) * up, self.down, offs=ends)
        if self.shift is not None:
            out = out + self.shift
        back = torch.zeros_like(x).index_add(0, order, out)
        return self.o(back)


@needs_grouped
@pytest.mark.parametrize("bias", [False, True])
def test_experts_lose_inner_width_and_model_width(bias: bool) -> None:
    model = generic_(Experts(bias)).bfloat16()
    graph = trace(model, torch.randn(9, 5).bfloat16())
    found = groups(graph)
    shift = {"shift:0"} if bias else set()
    assert found == {
        "router": (4, {"router.weight:0", "router.bias:0", "up:0", "down:0"}),
        "up": (16, {"up:1", "down:1"}),
        "down": (8, {"i.weight:0", "i.bias:0", "router.weight:1", "up:2", "down:2", "o.weight:1"} | shift),
    }
    assert {(m.param, m.dim): m.role for g in graph.groups for m in g.members}["up", 1] == "out"
    assert not graph.unknown
    x = torch.randn(9, 5)
    for seed in (0, 1):
        plan = Plan.from_pruned(graph, {"up": removal(graph, 0.5, seed)["up"]})
        small = plan.apply(model)
        assert type(small) is Experts
        assert small(x.bfloat16()).shape == (9, 3)
        with float64_code():
            assert_same(outputs(plan.mask(model), (x,)), outputs(small, (x,)))


@needs_grouped
def test_rows_that_end_where_no_router_says_freeze_the_experts() -> None:
    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Parameter(torch.randn(4, 8, 8))

        def forward(self, x: Tensor, ends: Tensor) -> Tensor:
            return functional.grouped_mm(x, self.up, offs=ends)

    ends = torch.tensor([2, 4, 6, 8], dtype=torch.int32)
    graph = trace(generic_(Given()).bfloat16(), (torch.randn(8, 8).bfloat16(), ends))
    assert re.search(r"own rows by number \(aten\._grouped_mm at test_axes_experts\.py:\d+", graph.why("up", 0))


@needs_grouped
def test_widths_that_the_product_does_not_take_are_refused_before_anything_is_cut() -> None:
    model = generic_(Experts()).bfloat16()
    graph = trace(model, torch.randn(9, 5).bfloat16())
    plan = Plan(graph, {"up": torch.arange(11)})
    with pytest.raises(ProofError, match=r"own dtype: .*multiple of 16 bytes.*round_to=8"):
        plan.apply(model, inplace=True)
    assert model.up.shape == (4, 32, 8)


@needs_grouped
def test_stand_in_computes_what_torch_computes_in_float32() -> None:
    generator = torch.Generator().manual_seed(3)
    x, weight = torch.randn(10, 16, generator=generator), torch.randn(3, 16, 8, generator=generator)
    ends = torch.tensor([4, 4, 10], dtype=torch.int32)
    torch.testing.assert_close(grouped_mm(x, weight, offs=ends), functional.grouped_mm(x, weight, offs=ends))
    by_hand = torch.cat([x[:4] @ weight[0], x[4:] @ weight[2]])
    torch.testing.assert_close(grouped_mm(x, weight, offs=ends), by_hand)
    batch = torch.randn(3, 5, 16, generator=generator)
    torch.testing.assert_close(grouped_mm(batch, weight, bias=torch.ones(8)), batch @ weight + 1)


def test_bins_freeze_what_is_counted() -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.i, self.o = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.i(x)
            return self.o(y) * torch.histc(y, bins=3, min=-1, max=1)

    graph = trace(generic_(Counted()), torch.randn(4, 5))
    assert re.search(r"elements are counted \(aten\.histc at test_axes_experts\.py:\d+", graph.why("i.weight", 0))
