"""Operations with a line of a rule each: what passes, and what keeps its positions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from axes.proving import Net, check, conv, generic_, groups, images
from prunus.axes import trace

Forward = Callable[..., Any]


def network(forward: Forward) -> Net:
    """Two convolutions side by side, and readers of one or both."""
    return Net(forward, c=conv(3, 8), d=conv(3, 8), e=conv(8, 4), w=conv(16, 4), l=nn.Linear(8, 4))


def pooled(convolution: nn.Module, x: Tensor) -> Tensor:
    return convolution(x).mean((2, 3))


def classes(self: Any, x: Tensor) -> Tensor:
    return self.e(self.c(x).relu())


def random_factor(fill: str, *args: float) -> Forward:
    """Draw numbers in place and multiply with them, but for a factor 0: what is drawn differs from run to run."""
    return lambda s, x: s.e(s.c(x) + getattr(torch.empty_like(s.c(x)), fill)(*args) * 0)


FREE: dict[str, Forward] = {
    "hsplit": lambda s, x: s.w(torch.cat([*torch.hsplit(torch.cat([s.c(x), s.d(x)], 1), [8])], 1)),
    "vsplit": lambda s, x: torch.vsplit(s.c(x), 2)[0].sum(1),
    "dsplit": lambda s, x: torch.dsplit(s.c(x), 2)[0].sum(1),
    "hstack": lambda s, x: s.w(torch.hstack([s.c(x), s.d(x)])),
    "hstack of vectors": lambda s, x: torch.hstack([pooled(s.c, x)[0], pooled(s.d, x)[1]]).sum(),
    "vstack": lambda s, x: s.e(torch.vstack([s.c(x), s.c(x)])),
    "vstack of vectors": lambda s, x: s.l(torch.vstack([pooled(s.c, x)[0], pooled(s.c, x)[1]])),
    "row_stack": lambda s, x: s.e(torch.row_stack([s.c(x), s.c(x)])),
    "column_stack": lambda s, x: s.w(torch.column_stack([s.c(x), s.d(x)])),
    "column_stack of vectors": lambda s, x: s.l(torch.column_stack([pooled(s.c, x)[0], pooled(s.c, x)[1]]).T),
    "dstack": lambda s, x: s.e(torch.dstack([s.c(x), s.d(x)])),
    "dstack of matrices": lambda s, x: s.l(torch.dstack([pooled(s.c, x), pooled(s.d, x)]).mT),
    "dstack of vectors": lambda s, x: s.l(torch.dstack([pooled(s.c, x)[0], pooled(s.d, x)[0]]).mT),
    "aminmax": lambda s, x: sum(torch.aminmax(s.c(x), dim=2)).sum(1),
    "msort": lambda s, x: torch.msort(s.c(x)).sum(1),
    "kthvalue": lambda s, x: torch.kthvalue(s.c(x), 2, dim=2)[0].sum(1),
    "kthvalue keepdim": lambda s, x: s.e(torch.kthvalue(s.c(x), 2, keepdim=True)[0]),
    "mode": lambda s, x: torch.mode(s.c(x), dim=2)[0].sum(1),
    "cross_entropy": lambda s, x: functional.cross_entropy(classes(s, x), x[:, 0].gt(0).long()),
    "cross_entropy of shares": lambda s, x: functional.cross_entropy(classes(s, x), x.new_ones(2, 4, 6, 6) / 4),
    "nll_loss": lambda s, x: functional.nll_loss(classes(s, x).log_softmax(1), x[:, 0].gt(0).long()),
    "mse_loss, sum": lambda s, x: functional.mse_loss(s.c(x), s.d(x), reduction="sum"),
    "mse_loss, none": lambda s, x: functional.mse_loss(s.c(x), s.d(x), reduction="none").sum(1),
    "l1_loss, sum": lambda s, x: functional.l1_loss(s.c(x), s.d(x), reduction="sum"),
    "smooth_l1_loss, none": lambda s, x: functional.smooth_l1_loss(s.c(x), s.d(x), reduction="none").sum(1),
    "huber_loss, sum": lambda s, x: functional.huber_loss(s.c(x), s.d(x), reduction="sum"),
    "mse_loss of outputs": lambda s, x: functional.mse_loss(classes(s, x), x.new_ones(2, 4, 6, 6)),
    "binary_cross_entropy": lambda s, x: functional.binary_cross_entropy(
        classes(s, x).sigmoid(), x.new_ones(2, 4, 6, 6)
    ),
    "with logits": lambda s, x: functional.binary_cross_entropy_with_logits(classes(s, x), x.new_ones(2, 4, 6, 6)),
    "linalg.norm of vectors": lambda s, x: torch.linalg.norm(s.c(x), dim=1),
    "linalg.norm of order 3": lambda s, x: torch.linalg.norm(s.c(x), 3, dim=1),
    "linalg.norm of a matrix": lambda s, x: torch.linalg.norm(s.c(x), "nuc", dim=(2, 3)).sum(1),
    "exponential_": random_factor("exponential_"),
    "uniform_": random_factor("uniform_", 0.0, 1.0),
    "normal_": random_factor("normal_"),
    "conjugates": lambda s, x: s.e(torch.fft.rfft(s.c(x)).conj().resolve_conj().resolve_neg().real),
    "greater": lambda s, x: s.e(torch.where(torch.greater(s.c(x), 0), s.c(x), 1)),
    "less": lambda s, x: s.e(torch.where(torch.less(s.c(x), s.d(x)), s.c(x), 0)),
    "multiply": lambda s, x: torch.multiply(s.c(x), s.d(x).exp()).sum(1),
    "subtract": lambda s, x: torch.subtract(s.c(x), s.d(x)).sum(1),
    "divide": lambda s, x: torch.divide(s.c(x), s.d(x).exp()).sum(1),
    "negative": lambda s, x: torch.negative(s.c(x)).absolute().sum(1),
    "arctan": lambda s, x: torch.arctan(s.c(x)).sum(1) + torch.fix(s.c(x)).sum(1),
    "nonzero_numpy": lambda s, x: classes(s, x)[torch.nonzero(x[:, 0, 0, 0] > -9, as_tuple=True)[0]],
}


@pytest.mark.parametrize("name", FREE)
def test_channels_pass(name: str) -> None:
    graph = check(network(FREE[name]), images())
    assert not graph.unknown
    assert any(size == 8 and "c.weight:0" in members for size, members in groups(graph).values())


@pytest.mark.parametrize("split", [torch.hsplit, torch.vsplit, torch.dsplit])
def test_a_split_by_name_at_a_fixed_place_moves_with_its_pieces(split: Callable[..., Any]) -> None:
    """The class cannot follow the literal 8, so the graph has to cut elsewhere."""
    dim = {torch.hsplit: 1, torch.vsplit: 0, torch.dsplit: 2}[split]

    def forward(self: Any, x: Tensor) -> Tensor:
        both = torch.cat([self.c(x), self.d(x)], 1)
        return self.e(sum(split(both.movedim(1, dim), [8])).movedim(dim, 1))

    graph = check(network(forward), images(), own_class=False)
    assert [size for size, members in groups(graph).values() if {"c.weight:0", "d.weight:0"} <= members] == [8]


MEAN = "a loss averages it"
FROZEN: dict[str, tuple[Forward, str]] = {
    "classes": (lambda s, x: functional.cross_entropy(s.c(x), x[:, 0].gt(0).long()), "a loss is taken over it"),
    "mse_loss": (lambda s, x: functional.mse_loss(s.c(x), s.d(x)), MEAN),
    "l1_loss": (lambda s, x: functional.l1_loss(s.c(x), s.d(x)), MEAN),
    "smooth_l1_loss": (lambda s, x: functional.smooth_l1_loss(s.c(x), s.d(x)), MEAN),
    "huber_loss": (lambda s, x: functional.huber_loss(s.c(x), s.d(x)), MEAN),
    "with logits": (lambda s, x: functional.binary_cross_entropy_with_logits(s.c(x), s.d(x)), MEAN),
    "with logits, sum": (
        lambda s, x: functional.binary_cross_entropy_with_logits(s.c(x), s.d(x), reduction="sum"),
        "a loss adds terms that are not zero",
    ),
    "msort": (lambda s, x: torch.msort(s.c(x).transpose(0, 1)).sum(0), "mixed or ordered"),
    "kthvalue": (lambda s, x: torch.kthvalue(s.c(x), 2, dim=1)[0], "its positions are compared"),
    "mode": (lambda s, x: torch.mode(s.c(x), dim=1)[0], "its positions are compared"),
    "places of values": (lambda s, x: torch.kthvalue(s.c(x), 2, dim=2)[1].sum(1), "lose terms that are not zero"),
    "largest norm": (lambda s, x: torch.linalg.norm(s.c(x), float("inf"), dim=1), "counts or compares"),
    "matrix norm": (lambda s, x: torch.linalg.norm(s.c(x), 2, dim=(1, 2)), "counts or compares"),
    "a sum of random numbers": (lambda s, x: s.c(x).uniform_().sum(1), "lose terms that are not zero"),
    "a sum of coins": (lambda s, x: s.c(x).clone().bernoulli_(0.5).sum(1), "lose terms that are not zero"),
    "a quotient": (lambda s, x: s.e(torch.divide(s.c(x), s.d(x))), "it is divided by"),
}


@pytest.mark.parametrize("name", FROZEN)
def test_what_is_counted_or_compared_keeps_its_channels(name: str) -> None:
    forward, why = FROZEN[name]
    graph = trace(generic_(network(forward)), images())
    assert re.search(f"c.weight dim 0 is frozen: .*{why}.*test_axes_small_rules", graph.why("c.weight", 0))
    assert not graph.unknown
