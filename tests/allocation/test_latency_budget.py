"""Latency and energy as budgets: on a device whose times are known exactly, and on real ones."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from prunus import prune, zoo
from prunus.allocation import TOLERANCE
from prunus.axes import Graph, trace
from prunus.costs import energy, energy_of_structure, macs
from prunus.errors import InputError, NameNotFound
from prunus.granularity import granularity, weight_targets
from prunus.oneshot import plan
from prunus.runtimes import device, register_device, step_for
from prunus.runtimes.table import structure
from runtimes.counting import Counting

NETS = ("resnet20", "mobilenet_v2", "vit_cifar", "gpt_tiny")
ALLOCATIONS: list[Any] = [
    "uniform", "global", "erdos_renyi_kernel", "erdos_renyi", "lamp", "owl", {"linear": {"first": 0.3, "last": 0.7}},
]  # fmt: skip


class Bent(Counting):
    """A whole model takes less than its parts, the more so the larger it is: the table is off, measuring is not."""

    name = "bent"

    def __init__(self) -> None:
        super().__init__(overhead=1e6, power=0.7)


register_device("counting", Counting)
register_device("bent", Bent)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@cache
def traced(name: str) -> Graph:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 32, 32) if name == "mobilenet_v2" else zoo.example_input(name)
    return trace(zoo.build(name).eval(), x, inexact="compensate")


def share(graph: Graph, on: Counting, sizes: dict[str, int]) -> float:
    cost = (macs(structure(graph, sizes), graph.trace.args) + on.overhead) ** on.power
    return float(cost / (graph.size().macs + on.overhead) ** on.power)


@pytest.mark.parametrize("allocation", ["uniform", "global", "lamp"])
@pytest.mark.parametrize(("name", "on"), [("counting", Counting()), ("bent", Bent())])
@pytest.mark.parametrize("asked", [0.6, 0.8])
def test_a_latency_is_met_by_the_whole_model(name: str, on: Counting, asked: float, allocation: str) -> None:
    graph = traced("resnet20")
    made = plan(graph, target=f"latency={asked}@{name}", allocation=allocation)
    assert share(graph, on, dict(made.sizes)) == pytest.approx(asked, rel=TOLERANCE)
    assert f"of the dense latency measured on {name}, {asked:.3f} asked" in str(made.provenance["latency"])
    assert "missed" not in str(made.provenance["latency"])


def test_a_latency_in_milliseconds_is_met() -> None:
    graph = traced("resnet20")
    dense = graph.size().macs * 1e-6
    made = plan(graph, target=f"latency<={0.7 * dense}ms@counting")
    assert share(graph, Counting(), dict(made.sizes)) == pytest.approx(0.7, rel=TOLERANCE)
    with pytest.raises(InputError, match="is met by the dense model, which takes"):
        plan(graph, target=f"latency<={2 * dense}ms@counting")


def test_counts_are_rounded_to_the_kernels_steps_unless_told_otherwise() -> None:
    graph = traced("resnet20")
    rounded = plan(graph, target="latency=0.6@counting").sizes
    assert all(left % step_for(graph[name].size) == 0 for name, left in rounded.items())
    ragged = plan(graph, target="latency=0.6@counting", round_to=1).sizes
    assert any(left % step_for(graph[name].size) for name, left in ragged.items())


def test_a_latency_that_cannot_be_met_is_told() -> None:
    with pytest.raises(InputError, match=r"latency=0.0001@counting is out of reach: latency gets to 0\.0"):
        plan(traced("resnet20"), target="latency=0.0001@counting")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_a_compiled_model_is_as_fast_as_was_asked() -> None:
    """Measured again after it was planned, by torch.compile itself."""
    torch.manual_seed(0)
    model, x = zoo.resnet20().eval(), torch.randn(4, 3, 32, 32)
    small = plan(trace(model, x), target="latency=0.6@compiled").apply(model)
    ratio = device("compiled").measure({"dense": model, "small": small}, x)["small"].ratio_to_first
    assert 1 / ratio == pytest.approx(0.6, rel=0.15)


def test_what_was_missed_is_said() -> None:
    """One layer of 16 channels in steps of 4 leaves a quarter, a half or three quarters."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 1), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 1))
    made = plan(trace(net.eval(), torch.randn(1, 3, 8, 8)), target="latency=0.6@counting")
    assert made.sizes == {"0": 8}
    assert "missed by 16.7%" in str(made.provenance["latency"])


def test_zeros_are_no_speed_and_no_energy() -> None:
    graph = traced("resnet20")
    with pytest.raises(InputError, match="zeros do not become speed on onnxruntime: its kernels multiply them"):
        plan(graph, target="latency=0.6@onnxruntime", granularity="element")
    with pytest.raises(InputError, match="zeroed elements do not lower energy"):
        plan(graph, target="energy=0.6", granularity="element")


@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        ("latency=0.6@onnxruntim", NameNotFound, "did you mean onnxruntime"),
        ("macs=0.6@torch", InputError, "only a latency has a device"),
        ("macs=5ms", InputError, "only a latency has a device and milliseconds"),
        ("latency=fast@torch", InputError, "a share such as 0.5 or a figure such as 5ms is wanted"),
    ],
)
def test_wrong_budgets_are_named(target: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        plan(traced("resnet20"), target=target)


@pytest.mark.parametrize("name", NETS)
def test_the_energy_of_a_structure_is_that_of_the_model_built_so(name: str) -> None:
    graph = traced(name)
    half = {group.name: max(group.minimum, group.size // 2) for group in graph.groups}
    for sizes in ({}, half):
        built = energy(structure(graph, sizes), graph.trace.args).joules
        assert energy_of_structure(graph, sizes) == pytest.approx(built, rel=2e-3)


@pytest.mark.parametrize("allocation", ALLOCATIONS, ids=str)
def test_every_allocator_meets_every_budget_to_one_percent(allocation: Any) -> None:
    graph = traced("resnet20")
    elements = sum(t.num_units for t in weight_targets(graph.model, granularity("element"), "*"))
    for quantity in ("macs", "params", "bytes", "energy"):
        sizes = plan(graph, target=f"{quantity}=0.5", allocation=allocation).sizes
        if quantity == "energy":
            got = energy_of_structure(graph, sizes) / energy_of_structure(graph)
        else:
            got = getattr(graph.size(sizes), quantity) / getattr(graph.size(), quantity)
        assert 0.495 <= got <= 0.5, quantity
    for asked in (0.3, 0.8):
        masks = plan(graph, target=f"sparsity={asked}", granularity="element", allocation=allocation).masks
        zeros = sum(int((~mask).sum()) for mask in masks.values())
        assert asked <= zeros / elements <= asked + 1e-4


def test_a_ceiling_holds_for_every_group() -> None:
    graph = traced("resnet20")
    sizes = plan(graph, target="macs=0.5", allocation="global", max_ratio=0.4).sizes
    assert all(left >= 0.6 * graph[name].size for name, left in sizes.items())


@pytest.mark.parametrize("ratio", [0.3, 0.5])
@pytest.mark.parametrize("name", NETS)
def test_rounded_requests_are_met_within_a_step_and_prune_every_layer(name: str, ratio: float) -> None:
    graph = traced(name)
    sizes = plan(graph, ratio=ratio, round_to="auto").sizes
    for group in graph.groups:
        left, step = sizes.get(group.name, group.size), step_for(group.size) if group.kind == "channel" else 1
        assert left % step == 0 or left == group.size
        assert 0 <= left - (group.size - round(ratio * group.size)) < max(step, 2)
        assert left < group.size


@pytest.mark.parametrize("on", ["torch", "onnxruntime"])
def test_a_real_latency_is_near_what_was_asked(on: str) -> None:
    pytest.importorskip(on)
    torch.manual_seed(0)
    model, x = zoo.build("resnet20").eval(), torch.randn(1, 3, 32, 32)
    small, report = prune(model, x, target=f"latency=0.7@{on}")
    again = device(on).measure({"dense": model, "pruned": small}, x, repeats=100)["pruned"]
    assert 1 / again.ratio_to_first == pytest.approx(0.7, rel=0.25)  # other processes share the machine
    assert f"latency ({on}, 1 thread)" in str(report)
    met = float(str(report).partition("budget: ")[2].split()[0])
    assert met == pytest.approx(0.7, rel=TOLERANCE) or "missed by" in str(report)


def test_a_table_from_elsewhere_is_met_by_its_own_figures(tmp_path: Path) -> None:
    graph = traced("resnet20")
    rows = ["layer,in,out,ms", "*,,,1"]
    for module, layer in graph.model.named_modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            sizes = layer.weight.shape[:2]
            ins, outs = sorted({1, sizes[1]}), sorted({1, sizes[0]})
            rows += [f"{module},{i},{o},{i * o / 1000}" for i in ins for o in outs]
    (tmp_path / "phone.csv").write_text("\n".join(rows))
    made = plan(graph, target=f"latency=0.6@table:{tmp_path / 'phone.csv'}")
    assert "which was not measured here" in str(made.provenance["latency"])
    linear = sum(
        layer.weight.shape[0] * layer.weight.shape[1] / 1000
        for layer in structure(graph, dict(made.sizes)).modules()
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)
    )
    dense = sum(
        layer.weight.shape[0] * layer.weight.shape[1] / 1000
        for layer in graph.model.modules()
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)
    )
    assert (linear + 1) / (dense + 1) == pytest.approx(0.6, rel=TOLERANCE)
