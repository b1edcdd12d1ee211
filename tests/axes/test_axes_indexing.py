"""Reading and writing by number: the counted dimension stays, the others lose their channels, proved in float64."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from axes.proving import Net, check, conv, generic_, groups, images
from prunus.axes import trace

HERE = r"test_axes_indexing\.py:\d+"
BOTH = {"c.weight:0", "c.bias:0", "d.weight:0", "d.bias:0", "e.weight:1"}
ONE = {"c.weight:0", "c.bias:0", "e.weight:1"}
LAST = {"c.weight:0", "c.bias:0", "l.weight:1"}
ALONE = {"c.weight:0", "c.bias:0"}


def numbers(*values: int) -> Tensor:
    return torch.tensor(values)


def along_width(self: nn.Module, x: Tensor) -> Tensor:
    """Numbers of columns that are the same for every channel, in the shape of the channels."""
    return self.c(x).sum(1, keepdim=True).argsort(3).expand(-1, self.c(x).shape[1], -1, -1)


def put_rows(self: nn.Module, x: Tensor) -> Tensor:
    y = self.c(x).movedim(1, -1).clone()
    y[:, numbers(0, 2)] = self.d(x).movedim(1, -1)[:, :2]
    return self.e(y.movedim(-1, 1))


def put_by_two(self: nn.Module, x: Tensor) -> Tensor:
    """The two indices are apart, so the new dimension stands in front of the batch."""
    y = self.c(x).transpose(1, 2).clone()
    y[:, numbers(0, 2), :, numbers(1, 4)] = self.d(x)[:, :, 0, :2].permute(2, 0, 1)
    return self.e(y.transpose(1, 2))


def put_zero_by_mask(self: nn.Module, x: Tensor) -> Tensor:
    y = self.c(x)
    y[y < 0] = 0.0
    return y.sum(1)


def put_one_by_mask(self: nn.Module, x: Tensor) -> Tensor:
    y = self.c(x)
    y[y < 0] = 1.0
    return self.e(y)


def two_apart(self: nn.Module, x: Tensor) -> Tensor:
    """(N, H, C, W) at rows and columns: (2, N, C)."""
    return self.l(self.c(x).transpose(1, 2)[:, numbers(0, 2), :, numbers(1, 4)])


def two_neighbours(self: nn.Module, x: Tensor) -> Tensor:
    return self.l(self.c(x)[:, :, numbers(0, 2), numbers(1, 4)].transpose(1, 2))


def scattered_rows(self: nn.Module, x: Tensor) -> Tensor:
    """What a router of experts does: rows are added where they came from."""
    rows = self.c(x).flatten(2).transpose(1, 2)[0]
    new = torch.zeros_like(rows).index_add(0, torch.arange(35, -1, -1), rows * 2)
    return self.l(new)


def fill_embeddings(self: nn.Module, x: Tensor) -> Tensor:
    """What a vision-language model does: image features take the places of marked tokens."""
    tokens, features = self.c(x).flatten(2).transpose(1, 2), self.d(x).flatten(2).transpose(1, 2)
    mask = (torch.arange(36) % 2 == 0).view(1, 36, 1).expand_as(tokens)
    return self.l(tokens.masked_scatter(mask, features))


def zeros_that_were_written(self: nn.Module, x: Tensor) -> Tensor:
    marks = torch.zeros(1, 1, 6, 6)
    marks[:, :, 0].fill_(1.0)
    y = self.c(x)
    return y.scatter(3, torch.zeros(2, 8, 6, 1, dtype=torch.int64), marks.expand(2, 8, 6, 6)).sum(1)


FREE: dict[str, tuple[Callable[..., Tensor], set[str]]] = {
    "index of a neighbour": (lambda s, x: s.e(s.c(x)[:, :, numbers(3, 1, 1, 2)]), ONE),
    "index by a matrix": (lambda s, x: s.l(s.c(x)[:, :, 0, torch.arange(6).view(2, 3)].flatten(2).mT), LAST),
    "two indices apart": (two_apart, LAST),
    "two indices side by side": (two_neighbours, LAST),
    "index_select": (lambda s, x: s.e(s.c(x).index_select(2, numbers(5, 0, 3))), ONE),
    "index_select keeps zeros": (lambda s, x: s.c(x).relu().index_select(2, numbers(5, 0, 3)).sum(1), ALONE),
    "gather": (lambda s, x: s.e(s.c(x).gather(3, along_width(s, x))), ONE),
    "take_along_dim": (lambda s, x: s.e(torch.take_along_dim(s.c(x), along_width(s, x)[:, :1], 3)), ONE),
    "index_put": (put_rows, BOTH),
    "index_put by two": (put_by_two, BOTH),
    "zero by a mask": (put_zero_by_mask, ALONE),
    "one by a mask": (put_one_by_mask, ONE),
    "index_add": (lambda s, x: s.e(s.c(x).index_add(3, numbers(2, 0), s.d(x)[..., :2])), BOTH),
    "index_copy": (lambda s, x: s.e(s.c(x).index_copy(3, numbers(2, 0), s.d(x)[..., :2])), BOTH),
    "index_fill": (lambda s, x: s.c(x).index_fill(3, numbers(2, 0), 0.0).sum(1), ALONE),
    "index_add of rows": (scattered_rows, LAST),
    "scatter": (lambda s, x: s.e(s.c(x).scatter(3, along_width(s, x), s.d(x))), BOTH),
    "scatter of a number": (lambda s, x: s.e(s.c(x).scatter(3, along_width(s, x), 2.5)), ONE),
    "scatter_add keeps zeros": (
        lambda s, x: s.c(x).scatter_add(3, along_width(s, x), s.d(x)).sum(1), BOTH - {"e.weight:1"},
    ),
    "scatter_reduce": (lambda s, x: s.e(s.c(x).scatter_reduce(3, along_width(s, x), s.d(x), "amax")), BOTH),
    "select_scatter": (lambda s, x: s.e(s.c(x).select_scatter(s.d(x)[..., 0], 3, 2)), BOTH),
    "slice_scatter": (lambda s, x: s.e(s.c(x).slice_scatter(s.d(x)[..., :2], 3, 1, 3)), BOTH),
    "masked_scatter of rows": (fill_embeddings, LAST | BOTH - {"e.weight:1"}),
    "repeat_interleave": (lambda s, x: s.f(s.c(x).repeat_interleave(2, dim=1)), ALONE | {"f.weight:1"}),
    "repeat_interleave elsewhere": (lambda s, x: s.c(x).repeat_interleave(2, dim=2).sum(1), ALONE),
    "bucketize": (lambda s, x: s.e(torch.bucketize(s.c(x), torch.linspace(-1, 1, 5)).to(x.dtype)), ONE),
    "one_hot": (lambda s, x: s.e(functional.one_hot(s.c(x).argmax(3), 6).to(x.dtype)), ONE),
}  # fmt: skip


def network(forward: Callable[..., Tensor]) -> Net:
    """Two convolutions side by side and readers of their channels."""
    return Net(forward, c=conv(3, 8), d=conv(3, 8), e=conv(8, 4), f=conv(16, 4), l=nn.Linear(8, 4))


@pytest.mark.parametrize("name", FREE)
def test_channels_pass_where_another_dimension_is_counted(name: str) -> None:
    forward, members = FREE[name]
    graph = check(network(forward), images(), own_class=name != "repeat_interleave")
    assert not graph.unknown
    assert groups(graph)["c"] == (8, members)


TRAPS: dict[str, tuple[Callable[..., Tensor], str]] = {
    "index_add": (lambda s, x: s.e(s.c(x).index_add(1, numbers(2, 0), x[:, :2])), "aten.index_add"),
    "index_fill": (lambda s, x: s.e(s.c(x).index_fill(1, numbers(2, 0), 1.0)), "aten.index_fill"),
    "index_fill with one, then sum": (lambda s, x: s.c(x).index_fill(3, numbers(2), 1.0).sum(1), "aten.sum"),
    "scatter": (lambda s, x: s.e(s.c(x).scatter(1, torch.ones(2, 1, 6, 6).long(), 1.0)), "aten.scatter"),
    "scatter of the first": (
        lambda s, x: s.e(s.c(x).scatter(3, torch.zeros(2, 4, 6, 6).long(), s.d(x))), "aten.scatter",
    ),
    "scatter from written zeros": (zeros_that_were_written, "aten.sum"),
    "take": (lambda s, x: s.c(x).take(numbers(0, 9)), "aten.take"),
    "select_scatter": (lambda s, x: s.e(s.c(x).select_scatter(x[:, 0], 1, 2)), "aten.select_scatter"),
    "slice_scatter": (lambda s, x: s.e(s.c(x).slice_scatter(x, 1, 1, 4)), "aten.slice_scatter"),
    "masked_scatter": (lambda s, x: s.e(s.c(x).masked_scatter(s.c(x) > 0, s.d(x))), "aten.masked_scatter"),
    "repeat by counts": (
        lambda s, x: s.c(x).repeat_interleave(torch.arange(8), 1, output_size=28).sum(1), "aten.repeat_interleave",
    ),
    "searchsorted": (lambda s, x: torch.searchsorted(s.c(x).mT.transpose(1, 3).contiguous(), x.transpose(1, 3)[..., :1]
                                                     .expand(2, 6, 6, 1).contiguous()) * 1.0, "aten.searchsorted"),
    "bucketize, then sum": (lambda s, x: torch.bucketize(s.c(x), torch.linspace(-1, 1, 5)).sum(1), "aten.sum"),
    "one_hot, then sum": (lambda s, x: functional.one_hot(s.c(x).argmax(3), 6).sum(1), "aten.sum"),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAPS)
def test_what_is_counted_or_filled_freezes_and_names_operation_and_line(name: str) -> None:
    forward, operation = TRAPS[name]
    model = network(forward)
    graph = trace(generic_(model), images())
    reason = graph.why("c.weight", 0)
    assert re.search(rf"is frozen: .*{operation}[._\w]* at {HERE}", reason)
    assert not graph.unknown


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_embedding_bag_loses_its_width(mode: str) -> None:
    model = Net(lambda s, x: s.l(s.b(x)), b=nn.EmbeddingBag(7, 8, mode=mode), l=nn.Linear(8, 4))
    graph = check(model, torch.randint(0, 7, (2, 5)))
    assert groups(graph) == {"b": (8, {"b.weight:1", "l.weight:1"})}
    assert "looked up" in graph.why("b.weight", 0)


def test_places_where_a_condition_holds_are_known() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        (rows,) = torch.where(x[:, 0] > 0)
        return self.b(self.a(x)[rows])

    graph = trace(
        Net(forward, a=nn.Linear(3, 8), b=nn.Linear(8, 2)), torch.tensor([[1.0, 2, 3], [-1, 2, 3], [2, 0, 1]])
    )
    assert graph.unknown == {}
    assert {group.size for group in graph.groups} == {8}
