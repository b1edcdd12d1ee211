"""Numbers that know where they come from: the user's own class runs with fewer units."""

from __future__ import annotations

import copy
import functools
import pickle
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from axes.proving import Net, check, generic_, removal, thin
from prunus.axes import trace
from prunus.axes.planted import Attribute, Planted, PlantedFloat, planting
from prunus.plans import Plan, record_of


def sequences(width: int = 6) -> Tensor:
    return torch.randn(2, 5, width, generator=torch.Generator().manual_seed(3))


def kinds_of(model: nn.Module) -> list[type]:
    return [type(value) for module in model.modules() for value in module.__dict__.values()]


class Heads(nn.Module):
    """Attention that reads everything from its attributes, as written by hand a thousand times."""

    def __init__(self, width: int = 6, heads: int = 4, head_dim: int = 8) -> None:
        super().__init__()
        self.heads, self.head_dim, self.inner = heads, head_dim, heads * head_dim
        self.qkv, self.out = nn.Linear(width, 3 * self.inner), nn.Linear(self.inner, width)
        self.scale = head_dim**-0.5

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        mixed = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(b, n, self.inner))


@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 9))
def test_terms_evaluate_and_invert_like_the_arithmetic_that_made_them(a: int, b: int, c: int) -> None:
    x, y = Planted(a, Attribute("x", a)), Planted(b, Attribute("y", b))
    for term, plain in [
        (x * y, a * b), (x + c, a + c), (c * x, c * a), (c - x, c - a), (x - y, a - b), (3 * x + y, 3 * a + b),
        (x // c, a // c), (2 * (x + 1), 2 * (a + 1)),
    ]:  # fmt: skip
        assert term == plain
        assert isinstance(term, Planted)
        assert term.source.evaluate({}) == plain
        found = term.source.invert(plain, {"y": b})
        if found is not None:
            assert term.source.evaluate({"x": found, "y": b}) == plain


def test_numbers_pass_for_plain_ones() -> None:
    number, real = Planted(3, Attribute("n", 3)), PlantedFloat(0.5, Attribute("p", 0.5))
    assert torch.zeros(number).shape == (3,)
    assert functional.dropout(torch.ones(2), real, training=False).sum() == 2
    assert type(pickle.loads(pickle.dumps(number))) is int
    assert copy.deepcopy(number) is number
    assert number == 3
    assert hash(number) == hash(3)
    assert number / 2 == 1.5


def test_everything_is_put_back_even_what_forward_stores_and_when_it_fails() -> None:
    class Storing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width, self.sizes, self.p = 4, [2, 2], 0.5

        def forward(self, x: Tensor) -> Tensor:
            self.doubled = 2 * self.width
            return x.view(self.sizes[0], 2)

    model = Storing()
    sizes = model.sizes
    with planting(model) as recorder:
        assert isinstance(model.width, Planted)
        model(torch.ones(4))
    assert [call.name for call in recorder.calls if call.args] == ["view"]
    assert model.sizes is sizes
    assert Planted not in kinds_of(model)
    assert type(model.doubled) is int
    assert type(model.p) is float
    with pytest.raises(RuntimeError), planting(model):
        model(torch.ones(5))
    assert Planted not in kinds_of(model)


def test_attributes_that_arrive_in_a_view_are_set() -> None:
    graph = check(Net(lambda s, x: s.a(x).sin(), a=Heads()), sequences(), own_class=True)
    small = Plan.from_pruned(graph, removal(graph, 0.5, 0)).apply(graph.model)
    attention: Any = small.a
    assert (attention.heads, attention.head_dim, attention.inner) == (2, 4, 8)
    assert attention.scale == 8**-0.5  # what was computed at build time stays


def test_one_attribute_for_two_axes_keeps_them_equal() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (m(x).view(*x.shape[:2], -1, self.head_dim).transpose(1, 2) for m in (self.q, self.k, self.v))
        return self.o(((q @ k.transpose(2, 3)).softmax(-1) @ v).transpose(1, 2).flatten(2))

    graph = check(Net(forward, **{n: nn.Linear(6, 32) for n in "qkv"}, o=nn.Linear(32, 3), head_dim=8), sequences())
    dims = {group.name for group in graph.groups if group.kind == "head dim"}
    assert len(dims) == 2  # queries' and keys' width, and values'
    assert dims in [set(names) for names in graph.equal]


def test_attribute_that_sizes_a_frozen_axis_too_freezes_the_other() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (m(x).unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2) for m in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.o(mixed.flatten(2))

    maps = {name: nn.Linear(6, 32) for name in "qkv"}
    graph = check(Net(forward, **maps, o=nn.Linear(32, 3), heads=4, head_dim=8), sequences())
    assert [group.kind for group in graph.groups] == ["head"]
    reasons = [leaf.reason or "" for leaf in graph.context.state["o.weight"].dims[1].leaves()]
    assert any("head_dim sizes it and an axis that is frozen: the scale of attention" in reason for reason in reasons)


@dataclass
class Config:
    heads: int = 4
    head_dim: int = 8


def test_numbers_in_a_config_are_set_on_the_copy_alone() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = self.i(x).view(*x.shape[:2], self.config.heads, self.config.head_dim)
        return self.o(torch.relu(y).flatten(2))

    model = generic_(Net(forward, i=nn.Linear(6, 32), o=nn.Linear(32, 3), config=Config()))
    graph = check(model, sequences())
    small: Any = Plan.from_pruned(graph, removal(graph, 0.5, 0)).apply(model)
    assert (small.config.heads, small.config.head_dim) == (2, 4)
    assert model.config == Config()


def test_number_that_arrives_in_a_product_alone_is_solved_for() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = torch.relu(self.i(x))
        return self.o(torch.cat([y, y], -1).view(*x.shape[:2], 2 * self.width))

    model = Net(forward, i=nn.Linear(6, 10), o=nn.Linear(20, 3), width=10)
    graph = check(model, sequences())
    small: Any = Plan.from_pruned(graph, removal(graph, 0.3, 0)).apply(model)
    assert small.width == small.i.out_features == 7


@pytest.mark.parametrize("cut", ["split", "slice", "narrow"])
def test_bounds_of_cuts_are_set(cut: str) -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = self.i(x)
        if cut == "split":
            a, b = y.split([self.first, self.second], dim=-1)
        elif cut == "slice":
            a, b = y[..., : self.first], y[..., self.first :]
        else:
            a, b = y.narrow(-1, 0, self.first), y.narrow(-1, self.first, self.second)
        return self.o(torch.relu(a)) + self.p(torch.tanh(b))

    parts = {"i": nn.Linear(6, 14), "o": nn.Linear(8, 3), "p": nn.Linear(6, 3)}
    check(Net(forward, **parts, first=8, second=6), sequences())


def test_literal_in_the_code_gives_the_graph_instead() -> None:
    model = Net(lambda s, x: s.o(torch.relu(s.i(x)).view(2, 5, 10)), i=nn.Linear(6, 10), o=nn.Linear(10, 3))
    graph = check(model, sequences(), own_class=False)
    assert record_of(Plan.from_pruned(graph, removal(graph, 0.5, 0)).apply(model)).form == "graph"  # type: ignore[union-attr]


class PartlyRotary(nn.Module):
    """One width for queries and keys, of which a half turns in pairs, for values, and for a second set of values."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim = 8
        self.q, self.k, self.v, self.u = (nn.Linear(6, 16) for _ in range(4))
        self.o, self.p = nn.Linear(16, 6), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, u = (
            m(x).view(*x.shape[:2], -1, self.head_dim).transpose(1, 2) for m in (self.q, self.k, self.v, self.u)
        )
        weights = (self.turned(q) @ self.turned(k).mT).softmax(-1)
        return self.o((weights @ v).transpose(1, 2).flatten(2)) + self.p((weights @ u).transpose(1, 2).flatten(2))

    def turned(self, x: Tensor) -> Tensor:
        a, b, rest = x.split([2, 2, 4], -1)
        return torch.cat([a - b, a + b, rest], -1)


def test_widths_of_one_number_that_are_cut_alike_are_paired_piece_by_piece() -> None:
    graph = trace(generic_(PartlyRotary()), sequences())
    assert sorted(len(names) for names in graph.equal) == [3, 5]
    assert not [frozen for frozen in graph.frozen if frozen.param[0] in "qkvu" and frozen.dim == 0]
    thin(graph, PartlyRotary(), 0.5)


@functools.lru_cache
def split_by(width: int, heads: int) -> tuple[int, int]:
    """Return what libraries of reshapes work out once per pattern and size."""
    return heads, width // heads


class Cached(nn.Module):
    """A layer whose sizes go through a cached function."""

    def __init__(self, width: int = 6, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.inner = heads, 8 * heads
        self.make, self.out = nn.Linear(width, self.inner), nn.Linear(self.inner, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.make(x).unflatten(-1, split_by(self.inner, self.heads))
        return self.out((parts - parts.mean(-1, keepdim=True)).flatten(-2))


def test_a_cached_function_hands_on_the_numbers_of_the_layer_that_calls_it_now() -> None:
    split_by.cache_clear()
    trace(nn.ModuleDict({"inside": Cached()})["inside"], (sequences(),))  # must not learn another model's names
    model = generic_(nn.Sequential(Cached(), Cached()))
    _, small = thin(trace(model, (sequences(),)), model, 0.5)
    record = record_of(small)
    assert record is not None
    assert record.form == "class"
    assert [layer.heads for layer in small.children()] == [2, 2]


def test_a_cached_function_still_returns_one_object_for_other_arguments() -> None:
    with planting(nn.Linear(2, 2)):
        assert split_by(12, 3) is split_by(12, 3)
    assert isinstance(split_by, functools._lru_cache_wrapper)


class OverChannels(nn.Module):
    """Attention over the channels of a head: a softmax runs over those of k, and q, k and v come of one chunk."""

    def __init__(self, width: int = 6, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * heads * 5), nn.Linear(heads * 5, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (y.unflatten(-1, (self.heads, -1)).permute(0, 2, 3, 1) for y in self.qkv(x).chunk(3, dim=-1))
        mixed = (q @ k.mT).softmax(-1) @ v
        return self.out(mixed.flatten(1, 2).mT)


def test_pieces_of_one_chunk_stay_equal_where_one_of_them_is_frozen_within_its_heads() -> None:
    graph = check(OverChannels(), (sequences(),))
    assert [group.size for group in graph.groups] == [4]
