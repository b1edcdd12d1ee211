"""Whole experts: one that is removed is one that its router can never choose."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from axes.proving import assert_same, generic_, groups, outputs
from axes.routers import (
    EXPERTS,
    TOP,
    Mixture,
    closed,
    dense,
    dense_batched,
    dispatched,
    scattered,
    sorted_by_expert,
    switch,
    without,
)
from prunus.axes import trace
from prunus.errors import InputError
from prunus.plans import Plan
from prunus.plans.float64 import float64_code

ROUTED = {"router.weight:0", "router.bias:0", "up:0", "down:0"}
MIXES = [(dense, 1), (dense_batched, 1), (switch, 1), (dispatched, TOP), (scattered, TOP), (sorted_by_expert, 1)]


def tokens() -> Tensor:
    return torch.randn(40, 5, generator=torch.Generator().manual_seed(11))


def mixture(mix: Callable[..., Tensor]) -> Mixture:
    """A mixture with random weights, in the type that torch's grouped product takes."""
    if mix is sorted_by_expert and not hasattr(functional, "grouped_mm"):
        pytest.skip("this torch has no grouped product")
    model = Mixture(mix)
    generic_(model)
    return model


@pytest.mark.parametrize(("mix", "least"), MIXES)
def test_removed_experts_are_those_with_a_logit_of_minus_infinity(mix: Callable[..., Tensor], least: int) -> None:
    model, x = mixture(mix), tokens()
    own = torch.bfloat16 if mix is sorted_by_expert else torch.float32
    graph = trace(model.to(own), x.to(own))
    expert = graph["router"]
    assert (expert.kind, expert.minimum, groups(graph)["router"]) == ("expert", least, (EXPERTS, ROUTED))
    for gone in ([0, 4], [0, 3, 4]):  # a third and a half; those that most tokens choose
        small = without(graph, gone).apply(model)
        assert type(small) is Mixture
        assert (small.num_experts, len(small.up), small.router.out_features) == (EXPERTS - len(gone),) * 3
        with float64_code():
            masked, thinned = outputs(closed(model, gone), (x,)), outputs(small, (x,))
            assert_same(masked, thinned)
            assert float((masked[0] - outputs(model, (x,))[0]).abs().max()) > 1e-3  # the choice was another one


def test_router_keeps_as_many_experts_as_it_chooses() -> None:
    graph = trace(mixture(dispatched), tokens())
    assert len(Plan(graph, {"router": torch.arange(TOP)}).kept["router"]) == TOP
    with pytest.raises(InputError, match=r"keeps 1 of 6 experts of router, but the router chooses 2; keep as many"):
        Plan(graph, {"router": torch.tensor([4])})


def test_two_of_two_experts_are_frozen() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router, self.up = nn.Linear(5, 2), nn.Parameter(torch.randn(2, 5, 3))

        def forward(self, x: Tensor) -> Tensor:
            scores, chosen = self.router(x).topk(2)
            return torch.einsum("tk,td,tkdh->th", scores, x, self.up[chosen])

    graph = trace(generic_(Both()), tokens())
    assert graph.why("up", 0) == "up dim 0 is frozen: a router chooses 2 of its 2 positions"


def test_experts_chosen_group_by_group_go_from_every_group() -> None:
    """The two best of three groups of four, by the sum of their two best; then the two best of those."""

    def grouped(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
        best = logits.view(-1, 3, 4).topk(2, dim=-1)[0].sum(-1)
        open_ = torch.zeros_like(best).scatter(1, best.topk(2, dim=-1)[1], 1.0).bool()
        open_ = open_.unsqueeze(-1).expand(-1, 3, logits.shape[1] // 3).reshape(logits.shape)
        chosen = logits.masked_fill(~open_, -torch.inf).topk(TOP, dim=-1)[1]
        gate = torch.zeros_like(logits).scatter(1, chosen, logits.gather(1, chosen))
        return torch.einsum("te,teh,ehd->td", gate, torch.einsum("td,edh->teh", x, m.up).relu(), m.down)

    class Twelve(Mixture):
        def __init__(self) -> None:
            super().__init__(grouped)
            self.router, self.num_experts = nn.Linear(8, 12), 12
            self.up, self.down = nn.Parameter(torch.randn(12, 8, 12)), nn.Parameter(torch.randn(12, 12, 8))

    model = generic_(Twelve())
    graph = trace(model, tokens())
    (expert,) = (group for group in graph.groups if group.kind == "expert")
    assert (expert.size, expert.minimum) == (4, 2)
    assert expert.members[0].index.tolist() == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]
    plan = Plan(graph, {expert.name: torch.tensor([0, 2, 3])})
    proof, form = plan.prove(model)
    assert (proof.passed, form) == (True, "graph")  # the class spells its groups of four
    assert_same(outputs(closed(model, [1, 5, 9]), (tokens(),)), outputs(plan.apply(model), (tokens(),)))


def compared(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    return dense(m, x, logits) * (logits.argmax(-1, keepdim=True) == 2)


def reckoned(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    return dense(m, x, logits) + logits.argmax(-1, keepdim=True) * 0.5


def as_flags(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    return dense(m, x, logits) * logits.argmax(-1, keepdim=True).bool()


def written(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    chosen = logits.argmax(-1, keepdim=True)
    return dense(m, x, logits) + torch.zeros_like(logits).long().scatter(1, chosen, chosen).sum(-1, keepdim=True)


def one_by_one(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    gate = logits.softmax(-1)
    return sum(gate[:, e : e + 1] * (x @ m.up[e]).relu() @ m.down[e] for e in range(m.num_experts))


def unbounded(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    return dense(m, x, logits) * logits.log_softmax(-1).amax(-1, keepdim=True)


@pytest.mark.parametrize(
    ("mix", "reason"),
    [
        (compared, "the numbers of its positions are read (aten.eq"),
        (reckoned, "the numbers of its positions are read (aten.mul"),
        (as_flags, "the numbers of its positions are read (aten.to"),
        (written, "the numbers of its positions are read (aten.scatter"),
        (one_by_one, "positions are taken by number (aten.select"),
        (unbounded, "its positions are mixed or ordered (aten.log_softmax"),
    ],
)
def test_whatever_else_reads_a_router_freezes_its_experts(mix: Callable[..., Tensor], reason: str) -> None:
    graph = trace(mixture(mix), tokens())
    assert not [group for group in graph.groups if group.kind == "expert"]
    assert re.search(re.escape(reason), graph.why("up", 0))


class Heads(nn.Module):
    """A softmax over features, one over the rows of a table, and one over outputs: none of them chooses a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.table, self.slots = nn.Linear(5, 8), nn.Parameter(torch.randn(7, 8)), nn.Linear(8, 9)
        self.keys, self.o, self.p = nn.Parameter(torch.randn(4, 10, 2)), nn.Linear(8, 3), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.i(x).softmax(-1)
        row = self.table[(x @ self.table.t()).argmax(-1)]
        memory = torch.einsum("thd,hkd->thk", x.view(-1, 4, 2), self.keys).softmax(-1)
        read = torch.einsum("thk,hkd->thd", memory, self.keys).reshape(-1, 8)
        return self.o(row + read) + self.p(self.slots(x).softmax(-1))


def test_softmax_over_what_is_no_stack_of_matrices_still_keeps_all_positions() -> None:
    graph = trace(generic_(Heads()), tokens())
    assert not [group for group in graph.groups if group.kind == "expert"]
    for param, dim in (("i.weight", 0), ("table", 0), ("slots.weight", 0), ("keys", 1)):
        assert "its positions are mixed or ordered" in graph.why(param, dim), param


def test_running_sum_loses_what_is_zero_and_nothing_else() -> None:
    class Summed(nn.Module):
        def __init__(self, shift: bool) -> None:
            super().__init__()
            self.a, self.b, self.shift = nn.Linear(5, 8), nn.Linear(8, 3), shift

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.b((y.sigmoid() if self.shift else y.relu()).cumsum(-1))

    model = generic_(Summed(shift=False))
    graph = trace(model, tokens())
    plan = Plan(graph, {"a": torch.tensor([0, 3, 4, 7])})
    assert_same(outputs(plan.mask(model), (tokens(),)), outputs(plan.apply(model), (tokens(),)))
    assert "mixed or ordered (aten.cumsum" in trace(generic_(Summed(shift=True)), tokens()).why("a.weight", 0)
