"""Export: what ONNX Runtime computes is what torch computes, for classes and for graphs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus
from prunus.errors import FileError, ProofError
from prunus.plans import GraphModel
from prunus.runtimes import export_onnx
from prunus.runtimes import onnx as room

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


class Literal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.fc = nn.Linear(8 * 36, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.conv(x)).view(-1, 8 * 36))


def thinned() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, 1, 8, 8)
    small, _ = prunus.prune(Literal(), x, ratio=0.5, measure_latency=False)
    return small, x


def test_a_thinned_graph_exports_and_takes_other_batch_sizes(tmp_path: Path) -> None:
    small, x = thinned()
    assert isinstance(small, GraphModel)
    exported = export_onnx(small, x, path=tmp_path / "small.onnx")
    assert exported.max_rel < 1e-5
    session = onnxruntime.InferenceSession((tmp_path / "small.onnx").read_bytes())
    y = torch.randn(7, 1, 8, 8)
    (got,) = session.run(None, {session.get_inputs()[0].name: y.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), small(y).detach(), rtol=1e-4, atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["small.onnx"]


def test_a_difference_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, x = thinned()
    monkeypatch.setattr(room, "TOLERANCE", -1.0)
    with pytest.raises(ProofError, match="ONNX Runtime and torch differ"):
        export_onnx(small, x, path=tmp_path / "small.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    small, x = thinned()
    with pytest.raises(FileError, match="cannot write"):
        export_onnx(small, x, path=tmp_path / "no" / "small.onnx")


class TwoScales(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pixels, self.score = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 1e4 * self.pixels(x), torch.sigmoid(self.score(x))


def test_each_output_is_held_to_its_own_scale(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = TwoScales().eval(), torch.randn(2, 4)
    export_onnx(model, x, path=tmp_path / "two.onnx")
    with torch.no_grad():
        model.score.bias.add_(0.1)  # another model now: its scores differ by far less than 1e-3 of the pixels
    assert room._difference(model, (x,), {}, tmp_path / "two.onnx") > 1e-2


def test_export_says_nothing_of_its_own(tmp_path: Path) -> None:
    """A fresh process: torch's exporter warns once of packages it misses, and its optimiser of foldings that fail."""
    script = (
        "import logging, torch; from torch import nn; from prunus.runtimes import onnx\n"
        "def write(*args, **kwargs):\n"
        "    logging.getLogger('onnxscript.optimizer._constant_folding').warning('Evaluation failed')\n"
        "    logging.getLogger('torch.onnx._internal.exporter._registration').warning('not installed')\n"
        "    return program(*args, **kwargs)\n"
        "program, torch.onnx.export = torch.onnx.export, write\n"
        f"onnx.export_onnx(nn.Linear(2, 2), torch.randn(1, 2), path={str(tmp_path / 'a.onnx')!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(ids) * mask).view(2, 6))


def test_a_graph_that_takes_keywords_keeps_their_names(tmp_path: Path) -> None:
    """A literal in the code gives a graph, whose forward takes any keyword."""
    inputs = {"ids": torch.randn(2, 4), "mask": torch.rand(2, 1)}
    small, _ = prunus.prune(Masked(), None, inputs, ratio=0.5, measure_latency=False)
    assert isinstance(small, GraphModel)
    written = export_onnx(small, (), inputs, path=tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(written.path.read_bytes(), providers=["CPUExecutionProvider"])
    assert [slot.name for slot in session.get_inputs()] == ["ids", "mask"]
