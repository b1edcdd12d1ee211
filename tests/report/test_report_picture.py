"""The picture of a graph: each group where it cuts, each reason once, nothing outside the frame."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, nn

from axes.proving import Net, conv, images
from prunus import zoo
from prunus.axes import Graph, trace
from prunus.errors import FileError
from prunus.report import picture, write_picture
from prunus.report.tracks import Dim, _lanes, arrange

SVG = "{http://www.w3.org/2000/svg}"


def residual() -> Graph:
    """A stem, a block of two around it, a head: one group of 8 through five layers, one of 6 between two."""

    def forward(s: Net, x: Tensor) -> Tensor:
        x = s.norm(s.stem(x)).relu()
        return s.head((x + s.outer(s.inner(x).relu())).mean((2, 3)))

    parts = {"head": nn.Linear(8, 10), "stem": conv(3, 8), "norm": nn.BatchNorm2d(8)}
    return trace(Net(forward, **parts, inner=conv(8, 6), outer=conv(6, 8)), images())


def test_rows_follow_execution_and_say_what_each_group_is_to_them() -> None:
    laid = arrange(residual())
    assert [row.name for row in laid.rows] == ["stem", "norm", "inner", "outer", "head"]
    names = {number: track.group.name for number, track in enumerate(laid.tracks)}
    roles = {row.name: {names[n]: set(found) for n, found in row.roles.items()} for row in laid.rows}
    stream = names[next(iter(laid.rows[0].roles))]
    assert roles == {
        "stem": {stream: {"out", "scale"}},
        "norm": {stream: {"scale"}},
        "inner": {stream: {"in"}, "inner": {"out", "scale"}},
        "outer": {stream: {"out", "scale"}, "inner": {"in"}},
        "head": {stream: {"in"}},
    }
    assert [(t.first, t.last) for t in laid.tracks if t.group.name == stream] == [(0, 4)]


def test_shapes_name_groups_and_reasons() -> None:
    laid = arrange(residual())
    stem, head = laid.rows[0], laid.rows[4]
    stream = next(iter(head.roles))
    assert stem.dims == (Dim(8, (stream,), None), Dim(3, (None,), 2), Dim(3, (None,), None), Dim(3, (None,), None))
    assert head.dims == (Dim(10, (None,), 1), Dim(8, (stream,), None))
    assert laid.notes[0] == "it is an output of the model"
    assert laid.notes[1].startswith("it is an input of the model")


def test_groups_that_overlap_never_share_a_lane_or_a_colour() -> None:
    spans = [(0, 9), (1, 2), (2, 3), (4, 5), (3, 3)]
    placed = _lanes(spans)
    assert [lane for lane, _ in placed] == [0, 1, 2, 1, 1]
    for i, a in enumerate(spans):
        for j, b in enumerate(spans[:i]):
            if a[0] <= b[1] and b[0] <= a[1]:
                assert placed[i][0] != placed[j][0]
                assert placed[i][1] != placed[j][1]


@pytest.mark.parametrize("name", ["resnet20", "densenet_cifar", "gpt_tiny", "vit_cifar"])
def test_the_drawing_is_whole_and_inside_its_frame(name: str) -> None:
    graph = trace(zoo.build(name).eval(), zoo.example_input(name))
    root = ElementTree.fromstring(picture(graph))
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    tracks = [e for e in root.iter(f"{SVG}path") if e.get("class") == "track"]
    assert len(tracks) == len(graph.groups)
    for element in root.iter():
        for key, limit in (("x", width), ("cx", width), ("y", height), ("cy", height)):
            assert 0 <= float(element.get(key, "0")) <= limit
    words = " ".join("".join(e.itertext()) for e in root.iter(f"{SVG}text"))
    for reason in {f.reason for f in graph.frozen}:
        assert re.sub(r"\s+", " ", reason) in re.sub(r"\s+", " ", words)
    assert "http" not in picture(graph).replace("http://www.w3.org/2000/svg", "")


def test_the_documented_picture_is_the_one_drawn_today() -> None:
    published = (Path(__file__).parents[2] / "docs/concepts/resnet20.svg").read_text(encoding="utf-8")
    drawn = picture(trace(zoo.build("resnet20").eval(), zoo.example_input("resnet20")))
    command = "prunus inspect prunus.zoo:resnet20 --input 1,3,32,32 --picture docs/concepts/resnet20.svg"
    assert published == drawn, f"draw it anew with: {command}"


def test_one_layer_that_makes_and_reads_a_group_has_both_marks() -> None:
    def forward(s: Net, x: Tensor) -> Tensor:
        y = s.first(x)
        return s.last(y + s.square(y).tanh())

    model = Net(forward, first=nn.Linear(3, 5), square=nn.Linear(5, 5), last=nn.Linear(5, 2))
    graph = trace(model, torch.randn(2, 3))
    assert {"in", "out"} <= set(arrange(graph).rows[1].roles[0])
    assert re.search(
        r'class="ring" cx="[\d.]+" cy="[\d.]+" r="6"/><circle cx="[\d.]+" cy="[\d.]+" r="3"', picture(graph)
    )


def test_a_model_without_groups_is_drawn_with_its_reasons() -> None:
    drawn = picture(trace(nn.Linear(3, 2), torch.randn(4, 3)))
    assert "Linear: 0 groups" in drawn
    assert "it is an output of the model" in drawn


def test_names_are_escaped() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("a<b&c", nn.Linear(3, 4))
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.get_submodule("a<b&c")(x)))

    root = ElementTree.fromstring(picture(trace(Odd(), torch.randn(2, 3))))
    assert any("".join(e.itertext()) == "a<b&c" for e in root.iter(f"{SVG}text"))


def test_writing_to_a_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write"):
        write_picture(residual(), tmp_path / "file" / "p.svg")
    assert write_picture(residual(), tmp_path / "p.svg").read_text(encoding="utf-8").startswith("<svg")
