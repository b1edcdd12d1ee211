"""The second opinion: right files hold, tampered ones are found out, and the words say which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from axes.proving import generic_, images, removal
from plans.test_plans_graph import Numbers
from plans.test_plans_store import Small, thinned, with_header
from prunus import zoo
from prunus.axes import trace
from prunus.errors import FileError, InputError
from prunus.plans import Plan, record_of, save, verify


def halved(model: nn.Module, x: Tensor) -> nn.Module:
    graph = trace(model, x)
    return Plan.from_pruned(graph, removal(graph, 0.5, 0)).apply(model)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "gpt_tiny", "vit_cifar"])
def test_what_prunus_thinned_holds_and_is_untouched(name: str) -> None:
    model, x = generic_(zoo.build(name)), zoo.example_input(name)
    verdict = verify(model, halved(model, x), x)
    assert verdict.holds, str(verdict)
    assert len(verdict.differences) == 3
    assert max(verdict.differences) <= 1e-10
    assert verdict.changed == ()
    assert verdict.num_params[1] < verdict.num_params[0] == sum(p.numel() for p in model.parameters())


def test_a_file_holds_without_dense_weights(tmp_path: Path) -> None:
    verdict = verify(Small, save(thinned(masked=True), tmp_path / "m.prunus"), images())
    assert verdict.holds
    assert verdict.changed is None
    assert "cut: 12 tensors, 356 -> 164 parameters" in str(verdict)
    assert str(verdict).endswith("\nholds")


def test_training_since_changes_the_weights_and_not_the_verdict() -> None:
    model = generic_(Small())
    small = halved(model, images())
    with torch.no_grad():
        small.e.bias.add_(1)
    verdict = verify(model, small, images())
    assert verdict.holds
    assert verdict.changed == ("e.bias",)
    assert "1 tensors differ from the dense weights' slices, so they were changed since: e.bias" in str(verdict)


def shifted(header: dict[str, Any], name: str, dim: str) -> dict[str, Any]:
    """Return a header in which one tensor keeps the neighbours of what it kept; all others stay."""
    plan, edits = header["plan"], header["plan"]["steps"][0]["edits"]
    size = plan["shapes"][name][int(dim)]
    kept = plan["positions"][edits[name][dim]]
    plan["positions"].append(sorted((p + 1) % size for p in kept))
    edits[name][dim] = len(plan["positions"]) - 1
    return header


@pytest.mark.parametrize(
    ("name", "dim"), [("f.weight", "1"), ("f.weight", "0"), ("b.weight", "0"), ("b.bias", "0"), ("scale", "0")]
)
def test_one_shifted_index_list_is_found_out(tmp_path: Path, name: str, dim: str) -> None:
    path = with_header(save(thinned(), tmp_path / "m.prunus"), lambda header: shifted(header, name, dim))
    verdict = verify(Small, path, images())
    assert not verdict.holds
    assert min(verdict.differences) > 1e-3
    assert "outputs differ by" in str(verdict.problem)


def test_a_consumer_that_kept_too_few_is_found_out() -> None:
    small = halved(generic_(Small()), images())
    record = record_of(small)
    assert record is not None
    record.surgery.edits["e.weight"][1] = np.arange(2)  # type: ignore[index]
    verdict = verify(Small, small, images())
    assert "e.weight was saved as (4, 4) and is rebuilt as (4, 2)" in str(verdict.problem)
    small.e.weight = nn.Parameter(torch.randn(4, 2))
    assert "the thinned model does not run with these cuts: RuntimeError" in str(verify(Small, small, images()))


def test_a_graph_is_captured_again_and_says_so() -> None:
    model, x = generic_(Numbers()), torch.randn(2, 3, 4, 4)
    verdict = verify(model, halved(model, x), torch.randn(5, 3, 4, 4))
    assert verdict.holds, str(verdict)
    assert verdict.form == "graph"
    assert "the thinned model is a graph, so it was captured again" in str(verdict)


def test_nothing_removed_is_no_proof() -> None:
    assert "no unit was removed" in str(verify(Small, Small(), images()).problem)


def test_another_class_does_not_fit(tmp_path: Path) -> None:
    path = save(thinned(), tmp_path / "m.prunus")
    assert "c.weight has shape (12, 3, 3, 3)" in str(verify(lambda: Small(12), path, images()).problem)
    assert "not made from torch.nn.modules.linear.Linear" in str(verify(lambda: nn.Linear(3, 3), path, images()))

    class More(Small):
        def __init__(self) -> None:
            super().__init__()
            self.more = nn.Linear(2, 2)

    assert "only one of them has more.bias" in str(verify(More, path, images()).problem)


def test_what_the_user_can_mend_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is no file"):
        verify(Small, tmp_path / "missing.prunus", images())
    path = save(thinned(), tmp_path / "m.prunus")
    with pytest.raises(InputError, match="Small does not run on inputs like these: RuntimeError"):
        verify(Small, path, images(channels=5))
    with pytest.raises(InputError, match="the dense factory returned str"):
        verify(lambda: "model", path, images())  # type: ignore[arg-type,return-value]


def test_outputs_that_compare_nothing_do_not_hold() -> None:
    class Silent(Small):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 0

    small = halved(generic_(Small()), images())
    assert "nothing could be compared" in str(verify(Silent, small, images()).problem)
