"""The analysis on small models whose curves are known, its store cut off anywhere, its cut by hand."""

import json
import math
import os

import pytest
import torch
from torch import nn

from prunus.errors import FileError, InputError, TrainingError
from prunus.sensitivity import Curves, perform_sensitivity_analysis

LEVELS = (0.25, 0.5, 0.75)

# most evaluations here read the weights themselves, so each cell takes a whole one
pytestmark = pytest.mark.filterwarnings("ignore:sensitivity of every cell")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(before, model):
    after = model.state_dict()
    return all(torch.equal(before[k].view(torch.uint8), after[k].view(torch.uint8)) for k in before if before[k].dim())


def zeros(model):
    """The shares of zeros: a metric whose every cell is known beforehand."""
    return {"first": (model[0].weight == 0).float().mean(), "last": float((model[2].weight == 0).float().mean())}


def test_each_target_alone_is_pruned_to_each_level():
    curves = perform_sensitivity_analysis(net(), zeros, levels=LEVELS)
    assert curves.levels == LEVELS
    assert curves.dense == {"first": 0, "last": 0}
    assert curves.values["first"] == {"0.weight": LEVELS, "2.weight": (0, 0, 0)}
    assert curves.values["last"] == {"0.weight": (0, 0, 0), "2.weight": (0.25, 0.5, 0.75)}
    assert curves.metric == "first"
    assert curves.table == curves.values["first"]


def test_filters_are_pruned_by_their_mean_size():
    model = net()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[5.0, 5, 5, 5], [1, 1, 1, 1], [0, 0, 0, 9], [2, 2, 2, 2]]))
    seen = []

    def evaluate(pruned):
        seen.append((pruned[0].weight == 0).all(dim=1).tolist())
        return 0.0

    perform_sensitivity_analysis(model, evaluate, granularity="filter", targets="0", levels=LEVELS)
    assert seen == [
        [False, False, False, False],
        [False, True, False, False],
        [False, True, False, True],
        [False, True, True, True],
    ]


def test_n_m_has_one_level_of_its_own():
    curves = perform_sensitivity_analysis(net(), zeros, granularity="1:4", levels=LEVELS)
    assert curves.levels == (0.75,)
    assert curves.table["0.weight"] == (0.75,)


class Member:
    def __init__(self, param, dim, role, is_parameter=True):
        self.param, self.dim, self.role, self.is_parameter = param, dim, role, is_parameter
        self.index = torch.arange(4).unsqueeze(1)


class Group:
    name, kind, minimum = "hidden", "feature", 1
    members = (
        Member("0.weight", 0, "out"),
        Member("0.bias", 0, "out"),
        Member("1.running_mean", 0, "buffer", False),
        Member("2.weight", 1, "in"),
    )


class Graph:
    groups = (Group(),)


def test_with_a_graph_the_whole_group_is_pruned_and_restored():
    model = net()
    model[1].running_mean.fill_(7)
    before = bits(model)

    def evaluate(pruned):
        gone = (pruned[0].weight == 0).all(dim=1)
        assert torch.equal(gone, pruned[0].bias == 0)
        assert torch.equal(gone, pruned[1].running_mean == 0)
        assert torch.equal(gone, (pruned[2].weight == 0).all(dim=0))
        return float(gone.sum())

    curves = perform_sensitivity_analysis(model, evaluate, granularity="filter", levels=LEVELS, graph=Graph())
    assert curves.table == {"hidden": (1, 2, 3)}
    assert same(before, model)


def test_the_model_is_the_same_afterwards_even_if_evaluate_changes_and_raises():
    model = net().eval()
    with torch.no_grad():
        model[0].weight[0, 0] = -0.0
        model[0].weight[0, 1] = math.inf
    before = bits(model)
    calls = []

    def evaluate(pruned):
        calls.append(1)
        pruned.train()
        pruned[1](torch.randn(5, 4))
        if len(calls) == 3:
            raise ValueError("no data")
        return 1.0

    with pytest.raises(TrainingError, match=r"at 0\.5 of 0\.weight: ValueError: no data"):
        perform_sensitivity_analysis(model, evaluate, levels=LEVELS)
    assert same(before, model)
    assert not any(module.training for module in model.modules())
    assert int(model[1].num_batches_tracked) == 0


@pytest.mark.parametrize(("result", "words"), [(None, "None"), ("x", "'x'"), ({}, "empty"), ({"a": [1]}, "numbers")])
def test_what_evaluate_returns_must_be_numbers(result, words):
    with pytest.raises(TrainingError, match=f"on the dense model.*{words}"):
        perform_sensitivity_analysis(net(), lambda model: result)


@pytest.mark.parametrize("levels", [(), (0.5, 1.0), ("50%",), (-0.1,)])
def test_levels_are_checked(levels):
    with pytest.raises(InputError, match="level"):
        perform_sensitivity_analysis(net(), zeros, levels=levels)


def noisy(model):
    """Awkward floats, so that a lost digit shows."""
    value = float((model[0].weight.sum() / 3 + model[2].weight.sum()).detach())
    return {"value": value, "worst": math.nan if value > 0 else math.inf}


def test_store_resumes_from_any_cut_to_the_same_bytes(tmp_path):
    """kill -9 may leave any prefix of the file; resuming must measure only what is missing and end in the same file."""
    path = tmp_path / "cells.jsonl"
    whole = perform_sensitivity_analysis(net(), noisy, levels=LEVELS, store=path)
    content = path.read_bytes()
    assert content.count(b"\n") == 1 + 1 + 2 * len(LEVELS)
    ends = {i + d for i, byte in enumerate(content) if byte == 10 for d in (0, 1, 2)}
    for cut in sorted({*range(0, len(content), 13), *ends} & {*range(len(content) + 1)}):
        path.write_bytes(content[:cut])
        calls = []
        again = perform_sensitivity_analysis(
            net(), lambda model, calls=calls: calls.append(1) or noisy(model), levels=LEVELS, store=path
        )
        assert path.read_bytes() == content
        assert repr(again) == repr(whole)
        known = max(0, content[:cut].count(b"\n") - 1)
        assert len(calls) == 7 - known + (0 < known < 7)  # the dense model again, to see that the data is the same


def test_each_cell_is_on_disk_before_the_next_is_measured(tmp_path):
    path = tmp_path / "cells.jsonl"
    lines = []

    def evaluate(model):
        lines.append(path.read_bytes().count(b"\n"))
        return 1.0

    perform_sensitivity_analysis(net(), evaluate, levels=(0.5,), store=path)
    assert lines == [1, 2, 3]


def test_cells_are_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    perform_sensitivity_analysis(net(), zeros, levels=(0.5,), store=tmp_path / "c.jsonl")
    assert len(synced) == 4


def test_more_levels_reuse_the_cells(tmp_path):
    path, calls = tmp_path / "c.jsonl", []
    perform_sensitivity_analysis(net(), zeros, levels=(0.5,), store=path)
    curves = perform_sensitivity_analysis(
        net(), lambda model: calls.append(1) or zeros(model), levels=(0.25, 0.5), store=path
    )
    assert len(calls) == 1 + 2
    assert curves.table["0.weight"] == (0.25, 0.5)


@pytest.mark.parametrize("change", ["weight", "buffer", "granularity", "criterion"])
def test_a_store_of_something_else_is_refused(tmp_path, change):
    path, model, options = tmp_path / "c.jsonl", net(), {"granularity": "element", "criterion": "l1"}
    perform_sensitivity_analysis(model, zeros, levels=(0.5,), store=path, **options)
    content = path.read_bytes()
    with torch.no_grad():
        if change == "weight":
            model[0].weight[0, 0] = torch.nextafter(model[0].weight[0, 0], torch.tensor(9.0))
        elif change == "buffer":
            model[1].running_mean += 1
        else:
            options[change] = {"granularity": "filter", "criterion": "l2"}[change]
    with pytest.raises(FileError, match="another model, granularity or criterion"):
        perform_sensitivity_analysis(model, zeros, levels=(0.5,), store=path, **options)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello", "holds no cells"),
        (b"hello\nworld", "holds no cells"),
        (b"[1]\n", "holds no cells"),
        (b'{"format": "prunus-sensitivity/1", "x\n', "line 1 is damaged"),
        (b'{"format": "other/3"}\n', "holds no cells"),
        (b"\xff\xfe\x00\n", "holds no cells"),
    ],
)
def test_foreign_files_are_refused_and_left_alone(tmp_path, content, words):
    path = tmp_path / "c.jsonl"
    path.write_bytes(content)
    with pytest.raises(FileError, match=words):
        perform_sensitivity_analysis(net(), zeros, store=path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("line", [b"{}\n", b'{"target": "a", "level": "x", "metrics": {}}\n', b"junk\n", b"7\n"])
def test_damage_before_the_last_line_is_named(tmp_path, line):
    path = tmp_path / "c.jsonl"
    perform_sensitivity_analysis(net(), zeros, levels=(0.5,), store=path)
    first, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + line + b"".join(rest))
    with pytest.raises(FileError, match="line 2"):
        perform_sensitivity_analysis(net(), zeros, levels=(0.5,), store=path)


def test_an_unwritable_store_is_named_before_anything_is_measured(tmp_path):
    with pytest.raises(FileError, match="cannot be read and written"):
        perform_sensitivity_analysis(net(), lambda model: 1 / 0, store=tmp_path / "no" / "folder.jsonl")


def test_progress_is_told_after_each_cell():
    told = []
    perform_sensitivity_analysis(net(), zeros, levels=(0.5,), progress=lambda *news: told.append(news))
    assert told == [(1, 3, "dense"), (2, 3, "0.weight 0.5"), (3, 3, "2.weight 0.5")]


def curves(values, dense=0.9, metric="top1"):
    return Curves(metric, "filter", "l1", (0.2, 0.4, 0.8), {metric: dense}, {metric: {"a": tuple(values)}})


@pytest.mark.parametrize(
    ("values", "max_drop", "expected"),
    [
        ((0.9, 0.9, 0.9), 0.0, 0.8),
        ((0.8, 0.5, 0.1), 0.0, 0.0),
        ((0.8, 0.5, 0.1), 0.05, 0.1),
        ((0.8, 0.5, 0.1), 0.1, 0.2),
        ((0.8, 0.5, 0.1), 0.2, 0.2 + 0.2 / 3),
        ((0.8, 0.5, 0.1), 0.6, 0.6),
        ((0.95, 0.5, 0.1), 0.175, 0.3),
        ((0.5, 0.9, 0.1), 0.2, 0.1),
        ((0.9, math.nan, 0.9), 0.5, 0.2),
        ((math.nan, 0.9, 0.9), 0.5, 0.0),
    ],
)
def test_ratios_cut_where_the_linear_curve_first_falls_too_far(values, max_drop, expected):
    assert curves(values).ratios(max_drop=max_drop)["a"] == pytest.approx(expected)


def test_ratios_of_a_loss_count_its_rise():
    found = curves((1.0, 2.0, 4.0), dense=1.0, metric="loss")
    assert found.ratios(max_drop=0.5, mode="min")["a"] == pytest.approx(0.3)
    assert found.ratios(max_drop=0.5)["a"] == 0.8


@pytest.mark.parametrize("options", [{"max_drop": -1}, {"max_drop": "1%"}, {"max_drop": math.nan}])
def test_a_wrong_drop_is_explained(options):
    with pytest.raises(InputError, match="max_drop is"):
        curves((1, 1, 1)).ratios(**options)
    with pytest.raises(InputError, match="mode"):
        curves((1, 1, 1)).ratios(0.1, mode="most")
    with pytest.raises(InputError, match="metric"):
        curves((1, 1, 1)).ratios(0.1, metric="top5")


def test_curves_survive_json():
    found = perform_sensitivity_analysis(net(), zeros, levels=LEVELS)
    data = json.loads(json.dumps(found.to_dict()))
    assert data["metric"] == "first"
    assert data["dense"] == 0
    assert data["curves"]["0.weight"] == list(LEVELS)
    assert Curves.from_dict(data) == found
    with pytest.raises(InputError, match="lack the key 'levels'"):
        Curves.from_dict({key: value for key, value in data.items() if key != "levels"})


def test_curves_print_as_a_table():
    text = str(curves((0.8, 0.5, 0.125)))
    assert "top1 by sparsity (filter, l1)" in text
    for word in ("20%", "40%", "80%", "0.9", "0.125"):
        assert word in text


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_plot_writes_the_same_file_twice(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    first, second = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    curves((0.8, 0.5, 0.1)).plot(first)
    curves((0.8, 0.5, 0.1)).plot(second)
    assert first.read_bytes() == second.read_bytes()
    assert len(first.read_bytes()) > 1000
    with pytest.raises(FileError, match="cannot be written"):
        curves((0.8, 0.5, 0.1)).plot(tmp_path / "no" / f"a.{suffix}")


def test_plot_explains_a_wrong_suffix_and_a_missing_matplotlib(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"\.jpeg"):
        curves((1, 1, 1)).plot(tmp_path / "a.jpeg")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install 'prunus\[report\]'"):
        curves((1, 1, 1)).plot(tmp_path / "a.svg")
