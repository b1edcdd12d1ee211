"""Where a class spells out a number of units and values decide what runs, the groups it is about are named."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import prunus
from prunus.errors import ProofError
from prunus.plans.culprits import culprits


class Spelt(nn.Module):
    """Two of five layers are read by a literal, and a value decides what runs, so that no graph can take its place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 12), nn.Linear(12, 10)
        self.d, self.e, self.out = nn.Linear(10, 16), nn.Linear(16, 14), nn.Linear(14, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        x = torch.relu(self.b(x)).view(-1, 12)
        x = torch.relu(self.c(x))
        x = torch.relu(self.d(x)).view(-1, 16)
        return self.out(torch.relu(self.e(x))) if x.sum() > -1 else x


@pytest.fixture
def spelt() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Spelt().eval(), torch.randn(5, 6)


def test_the_error_names_the_groups_that_a_literal_fixes_and_the_rest_goes(spelt: tuple[nn.Module, Tensor]) -> None:
    model, x = spelt
    graph = prunus.trace(model, x)
    with pytest.raises(ProofError, match=r"cannot run with fewer .*protect=\{'group': \['b', 'd'\]\}") as caught:
        prunus.plan(graph, ratio=0.5).apply(model)
    assert caught.value.groups == ("b", "d")
    small = prunus.plan(graph, ratio=0.5, protect={"group": caught.value.groups}).apply(model)
    assert [layer.out_features for layer in small.children()] == [4, 12, 5, 16, 7, 3]


def test_prune_keeps_whole_what_the_class_fixes_and_says_so(spelt: tuple[nn.Module, Tensor]) -> None:
    model, x = spelt
    small, report = prunus.prune(model, x, ratio=0.5, protect="e", measure_latency=False)
    assert [layer.out_features for layer in small.children()] == [4, 12, 5, 16, 14, 3]
    assert list(report.spared) == ["b", "d"]
    assert "kept whole: 2 groups, such as b: Spelt cannot run with fewer channels" in str(report)
    assert report.proof is not None
    assert report.proof.passed


def test_nothing_is_blamed_where_nothing_is_right_without_it(spelt: tuple[nn.Module, Tensor]) -> None:
    model, x = spelt
    graph = prunus.trace(model, x)
    with pytest.raises(ProofError, match=r"read it from the tensor or the module instead$") as caught:
        prunus.plan(graph, ratio=0.5, targets=["b", "d"]).apply(model)
    assert caught.value.groups == ()


@given(data=st.data(), num_groups=st.integers(3, 40))
def test_up_to_two_culprits_are_found_exactly_with_those_tied_to_them(data: Any, num_groups: int) -> None:
    names = [f"g{i}" for i in range(num_groups)]
    guilty = set(data.draw(st.lists(st.sampled_from(names[2:]), min_size=1, max_size=2, unique=True)))
    graph: Any = Tied(names, equal=((names[-1], names[-2]),))
    if guilty & {names[-1], names[-2]}:
        guilty -= {names[-1]}
        guilty |= {names[-2]}
    asked: list[set[str]] = []

    def holds(kept: Any) -> bool:
        asked.append(set(kept))
        return not guilty & set(kept)

    found = culprits(graph, dict.fromkeys(names, torch.tensor([0])), holds)
    tied = {names[-1], names[-2]} if guilty & {names[-2]} else set()
    assert set(found) == guilty | tied
    assert len(asked) <= 4 * num_groups.bit_length() + 1


def test_many_culprits_of_one_kind_are_named_by_their_kind() -> None:
    names = [f"g{i}" for i in range(80)]
    graph: Any = Tied(names, equal=(), kinds={name: "head" if i % 2 else "ffn" for i, name in enumerate(names)})
    heads = {name for i, name in enumerate(names) if i % 2}
    found = culprits(graph, dict.fromkeys(names, torch.tensor([0])), lambda kept: not (heads - {"g7"}) & set(kept))
    assert set(found) == heads


class Tied:
    """As much of a graph as is asked: kinds, and who must stay equal."""

    def __init__(
        self, names: list[str], equal: tuple[tuple[str, ...], ...], kinds: dict[str, str] | None = None
    ) -> None:
        self.equal = equal
        self._kinds = kinds or dict.fromkeys(names, "channel")

    def __getitem__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(kind=self._kinds[name])
