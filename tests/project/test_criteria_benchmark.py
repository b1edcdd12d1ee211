"""The criteria benchmark's own parts, on a net of two layers: what a line holds, what it refuses, what it prints."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.criteria.cells import Bench, Observed, dense, line, observed
from benchmarks.criteria.methods import KINDS, Method, columns, methods
from benchmarks.criteria.nets import STRONG, Fold, Net, is_top1, split
from benchmarks.criteria.report import markdown, marked, of_truth, six, spread, within_groups
from benchmarks.criteria.sweep import matches, within
from benchmarks.criteria.units import mean_ranks, pearson, spearman, truth, unit_scores
from torch import nn

import prunus
from prunus.criteria import criterion
from prunus.statistics import Statistics


def bench(*, norm: bool = True) -> Bench:
    torch.manual_seed(0)
    layers = [nn.Conv2d(8, 10, 3), nn.BatchNorm2d(10) if norm else nn.Identity(), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(40, 3)).eval()
    x, y = torch.randn(24, 8, 4, 4), torch.arange(24) % 3
    fold = Fold(split((x, y), 8), split((x + 0.1, y), 12), split((x - 0.1, y), 12))
    net = Net(
        lambda seed, folder: model, lambda seed: [fold], nn.functional.cross_entropy, is_top1, "two layers", STRONG
    )
    return Bench(net, model, [fold], 0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_fills_every_column_or_says_why_not(kind: str) -> None:
    one = bench()
    wanted = set(columns(kind, STRONG))
    before = {name: tensor.clone() for name, tensor in one.model.state_dict().items()}
    for method in methods(kind):
        found = line(one, kind, method)
        done = wanted if "all" in found["refused"] else {*found["refused"], *found["columns"]}
        assert done == wanted, method
        assert all(reason for reason in found["refused"].values()), method
        assert all(cell["as is"]["of"] == 24 for cell in found["columns"].values()), method
        assert all(("recalibrated" in cell) == (kind == "filter") for cell in found["columns"].values()), method
    torch.testing.assert_close(dict(one.model.state_dict()), before, rtol=0, atol=0)


def test_two_folds_are_pooled() -> None:
    one = bench()
    two = Bench(one.net, one.model, one.folds * 2, 0)
    single, double = (dense(each)["columns"]["dense"]["as is"] for each in (one, two))
    assert double == {key: 2 * value for key, value in single.items()}


def test_a_scale_is_refused_where_no_batch_norm_is() -> None:
    found = line(bench(norm=False), "filter", Method("bn_scale"))
    assert found["columns"] == {}
    assert "no batch norm" in found["refused"]["all"]


def test_remembered_scores_prune_what_the_criterion_itself_would() -> None:
    one, request = bench(), columns("filter", STRONG)["0.50"]
    seen = observed(one, one.folds[0], Method("taylor"), request)
    for each in (seen, Observed(criterion("bn_scale"), Statistics())):
        direct = prunus.plan(one.graph, criterion=each.inner, data=one.calibration(one.folds[0]), **request)
        again = prunus.plan(one.graph, criterion=each, **request)
        assert {name: kept.tolist() for name, kept in again.kept.items()} == {
            name: kept.tolist() for name, kept in direct.kept.items()
        }


def test_the_rise_of_the_loss_is_that_of_the_net_without_the_filter() -> None:
    one = bench()
    (batches,) = (fold.held_out for fold in one.folds)
    rises = truth(one)["increase"]["held out"]
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    conv, norm, fc = one.model[0], one.model[1], one.model[4]
    with torch.no_grad():
        hidden = torch.relu(norm(conv(x)))
        for unit in range(10):
            without = hidden.clone()
            without[:, unit] = 0
            pair = [nn.functional.cross_entropy(fc(h.flatten(1)), y) for h in (without, hidden)]
            assert rises["0"][unit] == pytest.approx(float(pair[0] - pair[1]), abs=1e-5)


def test_scores_of_single_units_are_the_criterions() -> None:
    one = bench()
    found = unit_scores(one, Method("l1"))
    assert found["raw"]["0"] == pytest.approx(one.model[0].weight.detach().abs().mean(dim=(1, 2, 3)).tolist())


def test_correlations_by_hand() -> None:
    a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0])
    assert mean_ranks(torch.tensor([5.0, 1.0, 5.0])).tolist() == [2.5, 1.0, 2.5]
    assert pearson(a, b) == pytest.approx(0.5)
    assert spearman(a, torch.tensor([1.0, 10.0, 100.0])) == pytest.approx(1.0)
    scores = {"a": [1.0, 2.0, 3.0], "b": [1.0, 1.0]}
    assert within_groups(scores, {"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0]}) == pytest.approx(0.5)


def test_scores_are_held_against_the_change_and_against_its_size() -> None:
    change = {"calibration": {"a": [-3.0, 1.0, 2.0]}, "held out": {"a": [1.0, 2.0, -3.0]}}
    size = {"a": [3.0, 1.0, 2.0]}
    assert six(size, {"a": [1.0, 2.0, 3.0]}, change) == pytest.approx((1.0, -0.5, -0.5, -0.5, 1.0, 1.0))
    assert of_truth(change)[:4] == pytest.approx((1.0, 1.0, -0.5, -0.5))


def test_what_takes_too_long_is_refused() -> None:
    def forever() -> dict[str, Any]:
        while True:
            time.process_time()

    assert "not done" in within(0.05, forever)["refused"]["all"]
    assert within(60, dict) == {}


def test_patterns_choose_net_and_granularity() -> None:
    assert matches("lenet5", "n:m", None)
    assert matches("lenet5", "n:m", ["resnet8", "lenet5/n"])
    assert not matches("lenet5", "filter", ["lenet5/n:m"])


def test_page_shows_spread_control_and_refusals() -> None:
    assert spread([90.0, 92.0]) == "91.0 ± 1.4"
    assert (spread([]), spread([3.0, float("nan")], 2)) == ("–", "3.00")
    assert marked([50.0], [60.0], "l1") == "*50.0*"
    assert marked([50.0], [50.0], "random") == "50.0"
    lines = [dict(place("dense", "dense"), columns={"dense": {"as is": {"right": 9, "of": 10}}}, refused={})]
    for name, right in {"l1": 7, "l2": 8, "random": 8}.items():
        lines.append(dict(place("element", name), columns={"0.50": {"as is": {"right": right, "of": 10}}}, refused={}))
    lines.append(dict(place("filter", "bn_scale"), columns={}, refused={"all": "no norm"}))
    page = markdown(lines, "run")
    assert "Dense: 90.0" in page
    assert "| `random` | 80.0 | – |" in page
    assert page.index("`random` | 80.0") < page.index("| `l1` | *70.0* |") < page.index("| `l2` | 80.0 |")
    assert "* bn_scale on lenet5 filter: no norm" in page


def place(kind: str, method: str) -> dict[str, Any]:
    return {"net": "lenet5", "seed": 0, "kind": kind, "method": method, "seconds": 0.0, "commit": "abc"}


def test_plot_names_every_criterion_and_keeps_its_text(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.criteria.plot import draw

    lines = [dict(place("dense", "dense"), columns={"dense": {"as is": {"right": 9, "of": 10}}}, refused={})]
    cell = {"as is": {"right": 8, "of": 10}}
    lines += [dict(place("element", name), columns={"0.50": cell}, refused={}) for name in ("l1", "random")]
    draw(lines, tmp_path / "plot.svg")
    assert ">random</text>" in (tmp_path / "plot.svg").read_text(encoding="utf-8")
