"""Distiller's analysis by its names: its loop by hand, its file, its picture."""

import copy

import pytest
import torch
from torch import nn

from prunus.distiller import perform_sensitivity_analysis, sensitivities_to_csv, sensitivities_to_png
from prunus.errors import InputError, NameNotFound

SPARSITIES = [0.0, 0.25, 0.5]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4, 2))


def judge(model):
    total = float(sum(p.detach().abs().sum() for p in model.parameters()))
    return total, total + 1, -total


@pytest.mark.parametrize(("group", "names"), [("element", ["0.weight", "2.weight"]), ("filter", ["0.weight"])])
def test_each_parameter_alone_loses_its_smallest_weights_or_filters(group, names):
    model = net()
    before = copy.deepcopy(model.state_dict())
    found = perform_sensitivity_analysis(
        model, [name for name, _ in model.named_parameters()], SPARSITIES, lambda model: judge(model), group
    )
    assert list(found.table) == names
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name in names:
        for level, value in zip(found.levels, found.table[name], strict=True):
            pruned = copy.deepcopy(model)
            weight = pruned.get_parameter(name).data
            sizes = weight.abs() if group == "element" else weight.abs().mean((1, 2, 3), keepdim=True).expand_as(weight)
            count = int(level * weight.numel() + 0.5)
            weight.view(-1)[sizes.reshape(-1).argsort(stable=True)[:count]] = 0
            assert value == pytest.approx(judge(pruned)[0])


def test_the_writers_take_what_the_analysis_gives(tmp_path):
    found = perform_sensitivity_analysis(net(), ["0.weight"], SPARSITIES, lambda model: judge(model))
    sensitivities_to_csv(found, tmp_path / "a.csv")
    rows = (tmp_path / "a.csv").read_text().splitlines()
    assert rows[0] == "parameter,sparsity,top1,top5,loss"
    assert [row.split(",")[1] for row in rows[1:]] == ["0.0", "0.25", "0.5"]
    pytest.importorskip("matplotlib")
    sensitivities_to_png(found, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_what_cannot_be_is_named():
    with pytest.raises(NameNotFound, match="group"):
        perform_sensitivity_analysis(net(), ["0.weight"], SPARSITIES, judge, "rows")
    with pytest.raises(NameNotFound, match=r"did you mean 0\.weight"):
        perform_sensitivity_analysis(net(), ["0.weights"], SPARSITIES, judge)
    with pytest.raises(InputError, match="no weight that filter can prune"):
        perform_sensitivity_analysis(net(), ["2.weight"], SPARSITIES, judge, "filter")
