"""A user's class that holds a fixed number: its graph is pruned, fine-tuned, exported and reloaded in its place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prunus.plans import GraphModel, load
from prunus.recipes import open_recipe, run
from prunus.recipes.resolve import resolve
from prunus.report import complete
from recipes.tiny_project import policy, write_project

STIFF = """
class Stiff(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(8 * 16, 10)

    def forward(self, x):
        return self.head(self.drop(torch.relu(self.norm(self.conv(x))).view(-1, 8 * 16)))

def stiff():
    return Stiff()
"""


def test_a_graph_goes_through_all_stages(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    recipe = write_project(
        tmp_path, more=STIFF, model="user.py:stiff", prune=policy(), finish={"latency": False, "export": "onnx"}
    )
    facts = run(open_recipe(recipe)).facts
    assert facts["proof"]["form"] == "graph"
    assert [row["stage"] for row in facts["history"]].count("fine_tune") == 2
    assert any("captured graph" in sentence for sentence in complete(facts)["verdict"])
    assert (tmp_path / "out" / "model.onnx").stat().st_size > 0
    small = load(tmp_path / "out" / "model.prunus", resolve("user.py:stiff", [tmp_path]))
    assert isinstance(small, GraphModel)
    assert small(torch.zeros(5, 1, 8, 8)).shape == (5, 10)
    statistics = small.norm.running_mean.clone()
    small.train()(torch.randn(16, 1, 8, 8))
    assert not torch.equal(small.norm.running_mean, statistics)
