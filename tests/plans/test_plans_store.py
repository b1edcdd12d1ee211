"""Saving and loading: bit for bit, in a fresh process, and one sentence for every file that is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from axes.proving import generic_, images, removal
from prunus import zoo
from prunus.axes import trace
from prunus.errors import FileError, InputError
from prunus.plans import Plan, load, record_of, save

SCRIPT = """
import sys, torch
from prunus.plans import load
from prunus import zoo
model = load(sys.argv[1], lambda: zoo.build("resnet20"))
torch.set_num_threads(1)
torch.save(model(torch.load(sys.argv[2])), sys.argv[3])
"""


class Small(nn.Module):
    """Convolution, norm, a tied pair of linear maps, a buffer that no file holds."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.c, self.b = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width)
        self.f, self.g, self.e = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 4)
        self.g.weight = self.f.weight
        self.register_buffer("scale", torch.linspace(1, 2, width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.e(self.g(self.f(self.b(self.c(x)).relu().mean((2, 3)) * self.scale)))


def thinned(masked: bool = False) -> nn.Module:
    torch.manual_seed(0)
    model = Small()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    graph = trace(model, images())
    masks = {"e.weight": torch.rand(4, 8) > 0.5} if masked else {}
    return Plan.from_pruned(graph, removal(graph, 0.5, 0), masks, {"criterion": "random", "seed": 0}).apply(model)


def test_round_trip_in_a_fresh_process_is_equal_bit_for_bit(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    model, x = generic_(zoo.build("resnet20")), zoo.example_input("resnet20")
    graph = trace(model, x)
    small = Plan.from_pruned(graph, removal(graph, 0.5, 0)).apply(model).eval()
    save(small, tmp_path / "small.prunus")
    torch.save(x, tmp_path / "x.pt")
    names = [str(tmp_path / name) for name in ("small.prunus", "x.pt", "y.pt")]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT, *names], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert torch.equal(torch.load(names[2]), small(x))


def test_round_trip_keeps_ties_masks_proof_and_provenance(tmp_path: Path) -> None:
    small = thinned(masked=True).eval()
    again = load(save(small, tmp_path / "m.prunus"), Small)
    assert torch.equal(again(images()), small(images()))
    assert again.g.weight is again.f.weight
    assert not again.training
    before, after = record_of(small), record_of(again)
    assert before is not None
    assert after is not None
    assert (after.kept, after.sizes, dict(after.provenance)) == (before.kept, before.sizes, before.provenance)
    assert after.proof == before.proof
    assert torch.equal(after.masks["e.weight"], before.masks["e.weight"])
    assert list(again.state_dict()) == list(small.state_dict())


def test_tied_tensors_are_written_once(tmp_path: Path) -> None:
    path = save(thinned(), tmp_path / "m.prunus")
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
    assert len(names & {"f.weight", "g.weight"}) == 1


def test_model_that_was_never_thinned_round_trips(tmp_path: Path) -> None:
    model = Small().eval()
    again = load(save(model, tmp_path / "m.prunus"), Small())
    assert torch.equal(again(images()), model(images()))
    assert record_of(again) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_round_trip_keeps_the_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    small = thinned().to(dtype)
    again = load(save(small, tmp_path / "m.prunus"), Small)
    assert again.c.weight.dtype == dtype


def test_model_thinned_twice_round_trips(tmp_path: Path) -> None:
    once = thinned()
    graph = trace(once, images())
    twice = Plan.from_pruned(graph, removal(graph, 0.5, 1)).apply(once).eval()
    assert twice.c.out_channels == 2
    again = load(save(twice, tmp_path / "m.prunus"), Small)
    assert torch.equal(again(images()), twice(images()))


def test_missing_and_foreign_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no file"):
        load(tmp_path / "missing.prunus", Small)
    with pytest.raises(FileError):
        load(tmp_path, Small)
    (tmp_path / "text").write_text("not safetensors")
    with pytest.raises(FileError, match="damaged or not a Prunus file"):
        load(tmp_path / "text", Small)
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(FileError, match="damaged"):
        load(tmp_path / "empty", Small)
    save_file({"w": torch.zeros(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(FileError, match="no Prunus header"):
        load(tmp_path / "plain.safetensors", Small)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
def test_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    path = save(thinned(), tmp_path / "m.prunus")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(FileError, match=r"m\.prunus"):
        load(path, Small)


def with_header(path: Path, change: object) -> Path:
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["prunus"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    text = change(header) if callable(change) else change
    save_file(tensors, path, metadata={"prunus": text if isinstance(text, str) else json.dumps(text)})
    return path


def with_step(header: dict[str, Any], **changes: Any) -> dict[str, Any]:
    (step,) = header["plan"]["steps"]
    return {**header, "plan": {**header["plan"], "steps": [{**step, **changes}]}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: {**h, "format": 99}, "format 99.*upgrade"),
        (lambda h: "{", "damaged"),
        (lambda h: "[]", "damaged"),
        (lambda h: {"format": 1}, "damaged"),
        (lambda h: {**h, "plan": {}}, "damaged"),
        (lambda h: with_step(h, edits={"c.weight": {"0": 77}}), "damaged"),
        (lambda h: {**h, "ties": {"g.weight": "nowhere"}}, "damaged"),
        (lambda h: with_step(h, attributes={"no.such.groups": [8, 4]}), "damaged|another model"),
        (lambda h: with_step(h, edits={"nowhere.weight": {"0": 0}}), "damaged|another model"),
    ],
    ids=["newer", "no json", "list", "empty", "no plan", "bad index", "bad tie", "bad attribute", "bad tensor"],
)
def test_damaged_header_is_one_sentence(tmp_path: Path, change: object, words: str) -> None:
    path = with_header(save(thinned(), tmp_path / "m.prunus"), change)
    with pytest.raises(FileError, match=words):
        load(path, Small)


def test_wrong_factories_are_named(tmp_path: Path) -> None:
    path = save(thinned(), tmp_path / "m.prunus")
    with pytest.raises(FileError, match=r"another model: .*c\.weight"):
        load(path, lambda: Small(12))
    with pytest.raises(FileError, match="another model"):
        load(path, lambda: nn.Linear(3, 3))
    with pytest.raises(InputError, match="returned str"):
        load(path, lambda: "model")  # type: ignore[arg-type,return-value]
    plain = save(Small(), tmp_path / "plain.prunus")
    with pytest.raises(FileError, match=r"Small, which does not fit .*Linear"):
        load(plain, lambda: nn.Linear(3, 3))


def test_folder_that_does_not_exist_or_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot write"):
        save(Small(), tmp_path / "missing" / "m.prunus")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write"):
        save(Small(), tmp_path / "file" / "m.prunus")


def test_failed_save_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = save(Small(), tmp_path / "m.prunus")
    before = path.read_bytes()
    small = thinned()
    object.__setattr__(record_of(small), "provenance", {"made by": object()})
    with pytest.raises((InputError, TypeError)):
        save(small, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.prunus"]


def test_loading_runs_no_code(tmp_path: Path) -> None:
    """The file is safetensors and JSON; a pickle under our name is refused before it is read as one."""

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    torch.save(Bomb(), tmp_path / "bomb.prunus")
    with pytest.raises(FileError):
        load(tmp_path / "bomb.prunus", Small)
    assert not (tmp_path / "exploded").exists()
