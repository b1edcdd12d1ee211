"""Segments, their look-up, and what the table makes of them, on a device whose times are known."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prunus import zoo
from prunus.axes import Graph, trace
from prunus.costs import macs
from prunus.runtimes.lookup import Lookup
from prunus.runtimes.segments import segments_of
from prunus.runtimes.table import LatencyTable, structure
from runtimes.counting import Counting

NETS = ("resnet20", "vit_cifar", "gpt_tiny", "densenet_cifar", "mobilenet_v2")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@cache
def traced(name: str) -> Graph:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 32, 32) if name == "mobilenet_v2" else zoo.example_input(name)
    return trace(zoo.build(name).eval(), x, inexact="compensate")


def thirds(graph: Graph) -> dict[str, int]:
    return {group.name: max(group.minimum, group.size - round(0.3 * group.size)) for group in graph.groups}


@pytest.mark.parametrize("name", NETS)
def test_segments_hold_every_sum_of_products_once_and_no_other(name: str) -> None:
    """Their MACs, counted while they run, are the structure's, dense and thinned."""
    graph = traced(name)
    segments = segments_of(graph)
    nodes = [index for segment in segments for index in segment.nodes]
    assert len(nodes) == len(set(nodes))
    anchors = set(graph.context.mac_nodes)
    assert all(len(anchors & set(segment.nodes)) <= 1 for segment in segments)
    for sizes in ({}, thirds(graph)):
        built = [segment.at(sizes).module() for segment in segments]
        assert sum(macs(module, inputs) for module, inputs in built) == graph.size(sizes).macs


@pytest.mark.parametrize("name", NETS)
def test_segments_compute_tensors_of_the_thinned_model_s_shapes(name: str) -> None:
    graph = traced(name)
    for segment in segments_of(graph):
        module, inputs = segment.at({}).module()
        assert module(*inputs).shape == graph.trace.nodes[segment.nodes[-1]].shape


def test_a_block_that_is_left_out_has_no_segments() -> None:
    graph = traced("resnet20")
    block = graph.blocks[-1].name
    left = sum(macs(*segment.at({}).module()) for segment in segments_of(graph, [block]))
    assert left == graph.size({}, [block]).macs


@pytest.mark.parametrize("name", NETS)
def test_a_structure_runs_with_so_many_units(name: str) -> None:
    graph = traced(name)
    small = structure(graph, thirds(graph))
    assert macs(small, graph.trace.args, graph.trace.kwargs) == graph.size(thirds(graph)).macs


def test_a_table_of_a_device_that_counts_macs_is_exact() -> None:
    graph = traced("resnet20")
    table = LatencyTable(graph, Counting())
    assert table.dense_ms == pytest.approx(graph.size().macs * 1e-6)
    for sizes in ({}, thirds(graph)):
        assert table.predict(sizes) == pytest.approx(graph.size(sizes).macs * 1e-6)
    check = table.measure(thirds(graph))
    assert check.predicted == pytest.approx(check.measured)
    assert table.error == pytest.approx(0)
    assert "off by 0.0% on average" in str(table)


def test_what_a_model_takes_besides_its_segments_becomes_the_offset() -> None:
    """A third of the dense time is overhead: the sum explains two thirds, and the half model tells."""
    graph = traced("resnet20")
    overhead = graph.size().macs / 2
    table = LatencyTable(graph, Counting(overhead))
    assert table.predict(thirds(graph)) == pytest.approx((graph.size(thirds(graph)).macs + overhead) * 1e-6)


def test_segments_are_timed_once_for_all_tables(own_cache: Path) -> None:
    graph, first, second = traced("resnet20"), Counting(), Counting()
    LatencyTable(graph, first).predict(thirds(graph))
    LatencyTable(graph, second).predict(thirds(graph))
    assert first.prepared > 20
    assert second.prepared == 2  # the whole models
    (file,) = (own_cache / "prunus" / "latency").iterdir()
    assert file.name.startswith("counting-")


def test_another_version_has_a_file_of_its_own(own_cache: Path) -> None:
    segment = segments_of(traced("resnet20"))[0].at({})
    for own in (Counting(), Counting(overhead=1.0)):
        Lookup(own).all([segment])
    assert len(list((own_cache / "prunus" / "latency").iterdir())) == 2


def test_a_torn_line_is_timed_again(own_cache: Path) -> None:
    segments = [segment.at({}) for segment in segments_of(traced("resnet20"))]
    whole = dict(Lookup(Counting()).all(segments))
    (file,) = (own_cache / "prunus" / "latency").iterdir()
    file.write_text(file.read_text()[:-20])
    again = Lookup(Counting())
    assert again.num_known == len(whole) - 1
    assert again.all(segments) == whole


def test_where_nothing_can_be_written_it_is_kept_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    segment = segments_of(traced("resnet20"))[0].at({})
    assert Lookup(Counting()).all([segment])[segment.signature] > 0


class FixedNumbers(nn.Module):
    """Its forward holds the number of channels, so its class cannot run with fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).view(1, 8, 4, 4))


def test_a_class_with_fixed_numbers_is_timed_as_its_graph() -> None:
    graph = trace(FixedNumbers().eval(), torch.randn(1, 3, 4, 4))
    assert type(structure(graph, {"conv": 5})).__name__ == "GraphModel"
    assert macs(structure(graph, {"conv": 5}), (torch.randn(1, 3, 4, 4),)) == graph.size({"conv": 5}).macs
