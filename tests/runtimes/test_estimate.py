"""The estimate of a page: exact where the truth is linear along each axis, between its neighbours where it is not."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator

from prunus import zoo
from prunus.axes import Graph, trace
from prunus.errors import NameNotFound
from prunus.runtimes import Elsewhere, Estimate, OnnxRuntime, estimate
from prunus.runtimes.estimate import Part
from runtimes.counting import Counting


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture(scope="module")
def resnet() -> Graph:
    torch.manual_seed(0)
    return trace(zoo.resnet20().eval(), torch.zeros(2, 3, 32, 32))


def without(graph: Graph, share: float) -> dict[str, int]:
    return {g.name: max(g.minimum, g.size - int(share * g.size)) for g in graph.groups}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.37, 0.5, 0.9])
def test_a_device_that_counts_macs_is_estimated_exactly(resnet: Graph, share: float) -> None:
    found = estimate(resnet, Counting(overhead=5e6))
    left = without(resnet, share)
    assert found.at(left) == pytest.approx((resnet.size(left).macs + 5e6) * 1e-6)
    assert found.checked == pytest.approx((found.checked[1],) * 2)
    assert found.batch == 2


def test_parts_of_many_groups_are_timed_where_all_lose_alike() -> None:
    """A densely connected net: each convolution reads all groups before it, and its MACs are linear in their sum."""
    graph = trace(zoo.build("densenet_cifar").eval(), zoo.example_input("densenet_cifar"))
    found = estimate(graph, Counting())
    assert max(len(names) for part in found.parts for names in part.axes) > 2
    for share in (0.0, 0.5, 0.9):
        left = without(graph, share)
        assert found.at(left) == pytest.approx(graph.size(left).macs * 1e-6, rel=0.02)


def test_what_a_group_changes_is_the_difference_it_makes(resnet: Graph) -> None:
    found, left = estimate(resnet, Counting()), without(resnet, 0.3)
    for name in left:
        other = {**left, name: resnet[name].size}
        assert found.at(other, only=[name]) - found.at(left, only=[name]) == pytest.approx(
            found.at(other) - found.at(left)
        )


@given(st.integers(1, 3), st.randoms(use_true_random=False))
def test_between_counts_it_is_scipys_interpolation(num_axes: int, draw) -> None:
    known = [sorted(draw.sample(range(1, 40), draw.randint(2, 5))) for _ in range(num_axes)]
    ms = np.array([draw.random() for _ in range(int(np.prod([len(each) for each in known])))])
    part = Part(tuple((f"g{i}",) for i in range(num_axes)), tuple(map(tuple, known)), tuple(ms))
    truth = RegularGridInterpolator(known, ms.reshape([len(each) for each in known]))
    for _ in range(5):
        point = [draw.randint(each[0], each[-1]) for each in known]
        assert part.at({f"g{i}": x for i, x in enumerate(point)}) == pytest.approx(truth(point)[0])


def test_beyond_what_was_timed_it_stays_at_the_last_count() -> None:
    part = Part((("a", "b"),), ((8, 16),), (2.0, 3.0))
    assert part.at({"a": 1, "b": 2}) == 2.0
    assert part.at({"a": 4, "b": 8}) == 2.5, "groups of one axis count by their sum"
    assert part.at({"a": 8, "b": 9}) == 3.0
    assert Part((("a",),), ((8,),), (2.0,)).at({"a": 5}) == 2.0


def test_it_comes_back_from_json(resnet: Graph) -> None:
    found = estimate(resnet, Counting())
    assert Estimate.from_dict(json.loads(json.dumps(asdict(found)))) == found


def test_a_table_from_elsewhere_is_estimated_as_it_is(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    graph = trace(model.eval(), torch.zeros(1, 3, 8, 8))
    rows = ["layer,in,out,ms", "*,,,0.5", "0,3,1,1", "0,3,8,8", "2,1,4,2", "2,8,4,3"]
    (tmp_path / "phone.csv").write_text("\n".join(rows))
    found = estimate(graph, Elsewhere(tmp_path / "phone.csv"), most=0.8)
    (group,) = graph.groups
    for count in (2, 4, 8):
        assert found.at({group.name: count}) == pytest.approx(0.5 + count + 2 + (count - 1) / 7)
    assert found.checked is None
    (tmp_path / "other.csv").write_text("\n".join(rows[:4]))
    with pytest.raises(NameNotFound, match=r"layer in .*other\.csv"):
        estimate(graph, Elsewhere(tmp_path / "other.csv"))


def test_progress_ends_at_all_and_what_is_known_is_not_timed_again(resnet: Graph) -> None:
    told: list[tuple[int, int]] = []
    estimate(resnet, Counting(), progress=lambda *at: told.append(at))
    assert told[-1][0] == told[-1][1] > 100
    again: list[tuple[int, int]] = []
    estimate(resnet, Counting(), progress=lambda *at: again.append(at))
    assert again == []


def test_a_real_runtime_is_estimated_within_a_factor() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 32, 3),
        torch.nn.Flatten(),
        torch.nn.Linear(25088, 10),
    )
    found = estimate(trace(model.eval(), torch.zeros(1, 3, 32, 32)), OnnxRuntime())
    assert found.checked is not None
    estimated, measured = found.checked
    assert 0 < measured < 1.2
    assert 0.5 < estimated / measured < 2
