"""Devices: their names, what they measure, and tables from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from prunus.axes import trace
from prunus.errors import FileError, InputError, NameNotFound
from prunus.runtimes import Device, Elsewhere, GivenTable, device, step_for
from runtimes.counting import Counting


@pytest.mark.parametrize(
    ("spec", "name", "said"),
    [
        ("torch", "torch", "torch"),
        ("onnxruntime", "onnxruntime", "onnxruntime"),
        ("torch.compile", "compiled", "compiled"),
        ("onnxruntime(threads=2)", "onnxruntime", "onnxruntime(threads=2)"),
    ],
)
def test_a_device_is_read_and_spelled(spec: str, name: str, said: str) -> None:
    read = device(spec)
    assert (read.name, str(read)) == (name, said)
    assert str(device(str(read))) == said


def test_an_own_device_works_as_it_is() -> None:
    own = Counting()
    assert device(own) is own
    assert isinstance(own, Device)


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("onnxruntim", NameNotFound, "did you mean onnxruntime"),
        ("quantum", NameNotFound, "table:file.csv"),
        ("torch(threads=0)", InputError, "torch threads is 0"),
        ("torch(cores=2)", NameNotFound, "argument of torch named 'cores'"),
        ("table:nowhere.csv", FileError, "nowhere.csv cannot be read"),
        (3, InputError, "a name such as 'onnxruntime'"),
    ],
)
def test_wrong_devices_are_named(spec: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        device(spec)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_a_wider_layer_takes_longer(name: str) -> None:
    pytest.importorskip(name)
    models = {"wide": nn.Conv2d(64, 64, 3), "narrow": nn.Conv2d(64, 8, 3)}
    found = device(name).measure(models, torch.randn(1, 64, 32, 32), repeats=20, seconds=5)
    assert found["wide"].ratio_to_first == 1
    assert found["narrow"].ratio_to_first > 2
    assert found["narrow"].runtime == name
    assert found["narrow"].ratio_error < found["narrow"].ratio_to_first


def test_measuring_leaves_a_model_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    device("torch").measure({"only": model}, torch.randn(2, 3, 4, 4), repeats=2)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def write(path: Path, rows: list[tuple[object, ...]], head: str = "layer,in,out,ms") -> Elsewhere:
    path.write_text("\n".join([head, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return Elsewhere(path)


def test_a_table_is_linear_between_its_counts(tmp_path: Path) -> None:
    """ms = 1 + 2 in + 3 out + in · out / 10 is linear in each direction, so every count between is exact."""
    rows = [("conv", i, o, 1 + 2 * i + 3 * o + i * o / 10) for i in (2, 8, 16) for o in (4, 12)]
    grid = write(tmp_path / "t.csv", [*rows, ("*", "", "", 0.25), ("*", "", "", 0.25)]).layer("conv")
    for i, o in ((2, 4), (5, 7), (8, 12), (13, 11), (16, 4)):
        assert grid.at(i, o) == pytest.approx(1 + 2 * i + 3 * o + i * o / 10)


def test_a_given_table_adds_up_layers_and_the_rest(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(4 * 16, 5))
    graph = trace(model.eval(), torch.randn(1, 3, 8, 8))
    rows = [("0", 3, o, o) for o in (1, 8)] + [("2", i, o, 10 * i * o) for i in (1, 8) for o in (1, 4)]
    rows += [("4", i, 5, i) for i in (16, 64)]
    on = write(tmp_path / "t.csv", [*rows, ("*", "", "", 7)])
    table = GivenTable(graph, on)
    assert table.dense_ms == pytest.approx(8 + 10 * 8 * 4 + 64 + 7)
    assert table.predict({"0": 5, "2": 3}) == pytest.approx(5 + 10 * 5 * 3 + 48 + 7)
    with pytest.raises(NameNotFound, match=r"layer in .*t.csv named '4'"):
        GivenTable(graph, write(tmp_path / "t.csv", rows[:-2]))
    with pytest.raises(InputError, match=r"has 4 for 32 to 64 inputs and 5 to 5 outputs, not for 16 and 5"):
        GivenTable(graph, write(tmp_path / "t.csv", [*rows[:-2], ("4", 32, 5, 1), ("4", 64, 5, 1)])).predict({"2": 1})


@pytest.mark.parametrize(
    ("rows", "head", "words"),
    [
        ([("a", 1, 1, 1)], "name,in,out,ms", "layer, in, out, ms are wanted"),
        ([("a", 1, 1, "fast")], "layer,in,out,ms", "line 2: .* is no layer"),
        ([("a", 1, 1, -1)], "layer,in,out,ms", "line 2"),
        ([("a", 1, 1, 1), ("a", 2, 2, 1)], "layer,in,out,ms", "a lacks in=1, out=2"),
        ([("*", 0, 0, 1)], "layer,in,out,ms", "holds no layer"),
    ],
)
def test_a_wrong_table_is_named(rows: list[tuple[object, ...]], head: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=words):
        write(tmp_path / "t.csv", rows, head)


def test_nothing_can_be_run_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="was measured elsewhere"):
        write(tmp_path / "t.csv", [("a", 1, 1, 1)]).measure({"m": nn.Linear(1, 1)}, torch.ones(1, 1))


@pytest.mark.parametrize(
    ("size", "width", "step"),
    [(512, 1, 16), (64, 1, 16), (63, 1, 8), (32, 1, 8), (31, 1, 4), (16, 1, 4), (15, 1, 1), (1, 1, 1), (16, 4, 4)],
)
def test_steps_go_by_the_number_of_channels(size: int, width: int, step: int) -> None:
    assert step_for(size, width) == step


@pytest.mark.parametrize("size", range(2, 200))
def test_a_third_of_any_layer_can_go(size: int) -> None:
    step = step_for(size)
    kept = -(-(size - round(0.3 * size)) // step) * step
    assert kept < size or size == 2 or round(0.3 * size) < step
    assert step * 4 <= size or step == 1
