"""Whole residual blocks left out: their input is handed on, and nothing else changes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from axes.proving import Net, assert_same, generic_, outputs, removal
from prunus import zoo
from prunus.axes import trace
from prunus.errors import NameNotFound, NothingToPrune
from prunus.plans import Plan, load, record_of, save, verify


class Block(nn.Module):
    """A residual block; `after` says what follows the sum."""

    def __init__(self, width: int = 6, after: str = "") -> None:
        super().__init__()
        self.a, self.b, self.after = nn.Linear(width, 10), nn.Linear(10, width), after
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, scale: float = 1.0) -> Any:
        y = x + scale * self.b(torch.tanh(self.a(x)))
        y = {"relu": torch.relu, "norm": self.norm}.get(self.after, lambda t: t)(y)
        return (y,) if self.after == "tuple" else y


def stack(*blocks: nn.Module, first: Any = torch.relu) -> nn.Module:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        x = first(self.i(x))
        for block in self.blocks:
            x = block(x)
            x = x[0] if isinstance(x, tuple) else x
        return self.o(x)

    return Net(forward, i=nn.Linear(4, 6), blocks=nn.ModuleList(blocks), o=nn.Linear(6, 3))


def rows() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def test_blocks_are_found_where_the_input_reaches_the_output_through_sums_alone() -> None:
    model = generic_(stack(Block(), Block(after="relu"), Block(after="norm"), Block(after="tuple")))
    graph = trace(model, rows())
    # the second ends in a relu, but its input is no relu's, so relu(x) is not x
    assert [block.name for block in graph.blocks] == ["blocks.0", "blocks.3"]
    assert graph.blocks[0].params == 6 * 10 + 10 + 10 * 6 + 6 + 12
    after_relu = trace(generic_(stack(Block(after="relu"), Block(after="relu"))), rows())
    assert [block.name for block in after_relu.blocks] == ["blocks.0", "blocks.1"]
    assert trace(generic_(stack(Block(after="relu"), first=torch.tanh)), rows()).blocks == ()


def test_dropped_block_is_the_identity_and_the_rest_is_the_users_class(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return stack(Block(), Block(after="tuple"), Block())

    model = generic_(build())
    graph = trace(model, rows())
    pruned = removal(graph, 0.5, 0)
    plan = Plan.from_pruned(graph, pruned, dropped=["blocks.1"])
    small = plan.apply(model)
    by_hand = Plan.from_pruned(graph, pruned).mask(model)
    by_hand.blocks = nn.ModuleList([by_hand.blocks[0], by_hand.blocks[2]])
    assert_same(outputs(by_hand, (rows(),)), outputs(small, (rows(),)))
    assert type(small) is type(model)
    assert not [name for name in small.state_dict() if name.startswith("blocks.1")]
    assert graph.size(plan.sizes, plan.dropped).params == sum(p.numel() for p in small.parameters())
    assert "blocks.1: left out" in plan.explain()
    again = load(save(small, tmp_path / "m.prunus"), build)
    assert torch.equal(again(rows()), small(rows()))
    assert verify(model, tmp_path / "m.prunus", rows()).holds


def test_macs_of_a_dropped_block_go() -> None:
    graph = trace(generic_(stack(Block(), Block())), rows())
    full, less = graph.size(), graph.size({}, ["blocks.0"])
    assert full.macs - less.macs == 5 * (6 * 10 + 10 * 6)
    assert full.params - less.params == graph.blocks[0].params


def test_optimizer_forgets_what_is_gone() -> None:
    model = generic_(stack(Block(), Block()))
    optimizer = torch.optim.Adam(model.parameters())
    model(rows()).square().sum().backward()
    optimizer.step()
    plan = Plan.from_pruned(trace(model, rows()), {}, dropped=["blocks.0"])
    plan.apply(model, optimizer=optimizer, inplace=True)
    held = {p for group in optimizer.param_groups for p in group["params"]}
    assert held == set(model.parameters())
    assert set(optimizer.state) < held  # the norms take no part
    model(rows()).square().sum().backward()
    optimizer.step()


def test_plans_compose_and_a_second_one_knows_what_is_left() -> None:
    model = generic_(stack(Block(), Block(), Block()))
    once = Plan.from_pruned(trace(model, rows()), {}, dropped=["blocks.0"]).apply(model)
    graph = trace(once, rows())
    assert [block.name for block in graph.blocks] == ["blocks.1", "blocks.2"]
    twice = Plan.from_pruned(graph, {}, dropped=["blocks.2"]).apply(once)
    record = record_of(twice)
    assert record is not None
    assert set(record.surgery.dropped) == {"blocks.0", "blocks.2"}
    left = copy.deepcopy(model)
    left.blocks = nn.ModuleList([left.blocks[1]])
    assert_same(outputs(left, (rows(),)), outputs(twice, (rows(),)))


def test_names_are_checked() -> None:
    graph = trace(generic_(stack(Block())), rows())
    with pytest.raises(NameNotFound, match=r"blocks\.0"):
        Plan.from_pruned(graph, {}, dropped=["block.0"])
    with pytest.raises(NothingToPrune):
        Plan.from_pruned(graph, {})


def test_residual_network_of_the_zoo_loses_blocks() -> None:
    model, x = generic_(zoo.build("resnet20")).eval(), zoo.example_input("resnet20")
    graph = trace(model, x)
    names = [block.name for block in graph.blocks]
    assert len(names) == 7  # nine, less the two that change the width
    small = Plan.from_pruned(graph, removal(graph, 0.3, 1), dropped=names[1:4]).apply(model)
    assert record_of(small).proof.passed  # type: ignore[union-attr]


def test_state_dict_loses_what_is_dropped() -> None:
    model = generic_(stack(Block(), Block()))
    plan = Plan.from_pruned(trace(model, rows()), {}, dropped=["blocks.0"])
    assert plan.cut(model.state_dict()).keys() == plan.apply(model).state_dict().keys()
