"""The coverage sweep's own parts: what it compares, what it keeps, what it prints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.coverage.__main__ import read
from benchmarks.coverage.measure import apart, generic_, redrawn
from benchmarks.coverage.report import markdown
from torch import nn


def test_distance_is_relative_to_each_tensors_largest_element_and_absolute_below_one() -> None:
    want = [torch.tensor([100.0, -200.0]), torch.tensor([0.25, 0.5])]
    got = [torch.tensor([100.0, -198.0]), torch.tensor([0.25, 0.375])]
    assert apart(want[:1], got[:1]) == pytest.approx(0.01)
    assert apart(want, got) == 0.125


@pytest.mark.parametrize("other", [[], [torch.zeros(3)], [torch.tensor([0.0, float("nan")])]])
def test_other_shapes_and_nan_are_infinitely_far_apart(other: list[torch.Tensor]) -> None:
    assert apart([torch.zeros(2)], other) == float("inf")


def test_generic_weights_leave_no_zero_and_no_one_and_keep_position_tables() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    model.register_parameter("layer_scale", nn.Parameter(torch.full((8,), 1e-6)))
    model.register_buffer("table", torch.arange(4.0))
    generic_(model)
    for name, parameter in model.named_parameters():
        assert 0.0 not in parameter, name
        assert parameter.unique().numel() == parameter.numel(), name
    assert float(model.layer_scale.detach().abs().max()) > 0.01
    assert model.table.tolist() == [0, 1, 2, 3]


def test_new_inputs_have_other_floats_and_the_same_tokens_in_another_order() -> None:
    given = ((torch.zeros(2, 3),), {"input_ids": torch.arange(16).reshape(2, 8), "mask": torch.arange(16)})
    (x,), kwargs = redrawn(given, 5)
    assert 0.0 not in x
    assert kwargs["input_ids"].tolist() != given[1]["input_ids"].tolist()
    assert sorted(kwargs["input_ids"].flatten().tolist()) == list(range(16))
    assert kwargs["mask"].tolist() == list(range(16))


def test_a_line_cut_short_by_a_kill_is_dropped_and_the_next_one_starts_afresh(tmp_path: Path) -> None:
    store = tmp_path / "store.jsonl"
    store.write_text('{"case": "a"}\n{"case": "b', encoding="utf-8")
    assert list(read(store)) == [{"case": "a"}]
    with store.open("a", encoding="utf-8") as file:
        file.write('{"case": "b"}\n')
    assert [line["case"] for line in read(store)] == ["a", "b"]


def test_page_counts_a_case_as_covered_only_where_every_ratio_is() -> None:
    fine = {"status": "ok", "reason": "", "form": "graph", "seconds": {"plan": 1.0}, "onnx": "1e-7"}
    bad = {"status": "wrong", "reason": "differs by 1", "seconds": {"plan": 3.0}}
    lines = [
        {"case": "timm/a", "seconds": {"trace": 2.0}, "ratios": {"0.3": fine, "0.5": fine}, "wall": 4.0},
        {"case": "timm/b", "seconds": {"trace": 4.0}, "ratios": {"0.3": bad, "0.5": fine}, "wall": 8.0},
    ]
    page = markdown(lines, [{"case": "timm/a", "ratios": {"0.5": {"status": "norm"}}}], "run", 240.0, ["timm/c"])
    assert "Coverage: 1 of 2 architectures (50.0%)" in page
    assert "Not run yet: timm/c." in page
    assert "| timm | 2 | 1 | 50.0% | 0 | 1 | 0 | 0 | 1 | 0 | 0 |" in page
    assert "| plan | 1.00 | 3.0 | timm/b |" in page
    assert "* timm/b: differs by 1" in page
    assert "| timm | 1 | 100.0% | 100.0% | 0 | 1 | 0 | 0 | 0 | 0 | 0 |" in page
