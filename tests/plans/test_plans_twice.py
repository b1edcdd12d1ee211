"""Plans that follow each other: groups change their names between traces, positions of tensors do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from axes.proving import generic_, removal
from prunus.axes import Graph, trace
from prunus.errors import FileError
from prunus.plans import Plan, load, record_of, save, verify

LITERALS = (None, "heads", "ends")


class Twice(nn.Module):
    """Maps whose rows are heads of places: `a` and `a#2`; two that are one after the other; literals on request.

    literals: `heads` for sizes of heads, `ends` for the last view, None for none.
    """

    def __init__(self, heads: int = 3, places: int = 4, literals: str | None = "heads") -> None:
        super().__init__()
        self.heads, self.places, self.literals = heads, places, literals
        self.a, self.b = nn.Linear(5, heads * places), nn.Linear(heads, 6)
        self.c, self.d = nn.Linear(places, 6), nn.Linear(12, 2)
        self.register_buffer("scale", torch.linspace(1, 2, places))

    def forward(self, x: Tensor) -> Tensor:
        heads, places = int(str(self.heads)), int(str(self.places))  # numbers of the code, which no plan can set
        sizes = (heads, places) if self.literals == "heads" else (self.heads, self.places)
        y = self.a(x).view(-1, *sizes).relu()
        both = torch.cat([self.b((y * self.scale).sum(2)).tanh(), self.c(y.sum(1)).relu()], -1)
        return self.d(both.view(-1, 12) if self.literals == "ends" else both)


def rows() -> Tensor:
    return torch.randn(3, 5, generator=torch.Generator().manual_seed(2))


def thinned_by(model: nn.Module, *kept: dict[str, list[int]]) -> nn.Module:
    for names in kept:
        graph = trace(model, rows())
        model = Plan(graph, {name: torch.tensor(positions) for name, positions in names.items()}).apply(model)
    return model.eval()


def assert_loads(small: nn.Module, path: Path, build: Any) -> None:
    again = load(save(small, path), build)
    assert type(again) is type(small)
    assert torch.equal(again(rows()), small(rows()))
    verdict = verify(build, path, rows())
    assert verdict.holds, str(verdict)


@pytest.mark.parametrize("literals", LITERALS)
def test_names_that_change_their_meaning_between_traces(literals: str | None, tmp_path: Path) -> None:
    model = generic_(Twice(literals=literals))
    first, second = trace(model, rows()), thinned_by(model, {"a": [1]})
    assert (first["a"].size, first["a#2"].size, trace(second, rows())["a"].size) == (3, 4, 4)
    small = thinned_by(second, {"a": [0, 3]})
    record = record_of(small)
    assert record is not None
    assert record.surgery.edits["a.weight"][0].tolist() == [4, 7]
    assert (record.kept["a"], record.sizes["a"]) == ((0, 3), 4)
    assert_loads(small, tmp_path / "m.prunus", lambda: Twice(literals=literals))


@settings(max_examples=10, deadline=None, phases=[Phase.generate])  # to shrink a failure takes minutes
@given(st.sampled_from(LITERALS), st.lists(st.tuples(st.floats(0.1, 0.8), st.integers(0, 99)), min_size=2, max_size=3))
def test_random_plans_after_each_other_load_to_the_same_outputs(
    tmp_path_factory: pytest.TempPathFactory, literals: str | None, cuts: list[tuple[float, int]]
) -> None:
    def build() -> nn.Module:
        return Twice(heads=2, literals=literals)

    model = generic_(build())
    for ratio, seed in cuts:
        graph = trace(model, rows())
        pruned = some(graph, ratio, seed)
        model = Plan.from_pruned(graph, pruned).apply(model).eval() if pruned else model
    if record_of(model) is not None:
        assert_loads(model, tmp_path_factory.mktemp("files") / "m.prunus", build)


def some(graph: Graph, ratio: float, seed: int) -> dict[str, Tensor]:
    """Cut a random half of the groups, so that some reach size one before others."""
    chosen = torch.rand(len(graph.groups), generator=torch.Generator().manual_seed(seed)) < 0.5
    named = removal(graph, ratio, seed)
    return {group.name: named[group.name] for group, yes in zip(graph.groups, chosen, strict=True) if yes}


SCRIPT = """
import sys, torch
from prunus.plans import load
from plans.test_plans_twice import Twice, rows
torch.save(load(sys.argv[1], Twice)(rows()), sys.argv[2])
"""


def test_a_fresh_process_repeats_both(tmp_path: Path) -> None:
    small = thinned_by(generic_(Twice()), {"a": [1], "c": [0, 2, 5]}, {"a": [0, 3], "b": [1, 2], "c": [1, 2]})
    names = [str(save(small, tmp_path / "m.prunus")), str(tmp_path / "y.pt")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", SCRIPT, *names], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    torch.testing.assert_close(torch.load(names[1]), small(rows()))


def test_a_class_of_another_structure_is_refused(tmp_path: Path) -> None:
    """All tensors fit, but here the code reads places where the saved one had heads."""

    class Swapped(Twice):
        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x).view(-1, 4, 3).relu().mT
            both = torch.cat([self.b((y * self.scale).sum(2)).tanh(), self.c(y.sum(1)).relu()], -1)
            return self.d(both)

    path = save(thinned_by(generic_(Twice()), {"a": [1]}), tmp_path / "m.prunus")
    with pytest.raises(FileError, match=r"another model: a\.bias cannot lose these positions of dim 0"):
        load(path, Swapped)
