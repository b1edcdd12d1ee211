"""Distiller's table of sensitivities: its own bytes, there and back."""

import csv
from collections import OrderedDict

import pytest

from prunus.errors import FileError, InputError
from prunus.sensitivity import Curves

LEVELS = (0.05, 0.1)


def distillers(sensitivities, name):
    """`sensitivities_to_csv` as it stands in IntelLabs/distiller, distiller/sensitivity.py."""
    with open(name, "w") as csv_file:
        writer = csv.writer(csv_file)
        writer.writerow(["parameter", "sparsity", "top1", "top5", "loss"])
        for param_name, sensitivity in sensitivities.items():
            for sparsity, values in sensitivity.items():
                writer.writerow([param_name, sparsity, *list(values)])


def curves(metrics=("top1", "top5", "loss")):
    dense = {"top1": 56.518, "top5": 79.07, "loss": 1.9159}
    values = {
        "top1": {"a.weight": (56.492, 35.424), "b.weight": (56.514, 54.454)},
        "top5": {"a.weight": (79.1, 60.3), "b.weight": (79.07, 77.854)},
        "loss": {"a.weight": (1.9161, 3.0866), "b.weight": (1.9159, 2.3127)},
    }
    return Curves(metrics[0], "element", "l1", LEVELS, {m: dense[m] for m in metrics}, {m: values[m] for m in metrics})


def as_distiller_has_them(found):
    names = ("top1", "top5", "loss")
    made = OrderedDict()
    for target in found.table:
        made[target] = OrderedDict({0.0: tuple(found.dense[m] for m in names)})
        made[target].update({level: tuple(found.values[m][target][i] for m in names) for i, level in enumerate(LEVELS)})
    return made


def test_the_bytes_are_distillers_and_are_read_back(tmp_path):
    curves().to_csv(tmp_path / "ours.csv")
    distillers(as_distiller_has_them(curves()), tmp_path / "theirs.csv")
    with (tmp_path / "theirs.csv").open(newline="") as ours, (tmp_path / "ours.csv").open(newline="") as theirs:
        assert ours.read() == theirs.read()
    assert Curves.from_csv(tmp_path / "theirs.csv") == curves()
    assert Curves.from_csv(tmp_path / "theirs.csv").ratios(10) == curves().ratios(10)


def test_a_metric_that_was_not_measured_stays_empty(tmp_path):
    curves(("loss", "top1")).to_csv(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines()[1] == "a.weight,0.0,56.518,,1.9159"
    found = Curves.from_csv(tmp_path / "a.csv")
    assert (found.metric, set(found.values)) == ("top1", {"top1", "loss"})
    own = Curves("iou", "element", "l1", (0.5,), {"iou": 1.0}, {"iou": {"a": (0.5,)}})
    with pytest.raises(InputError, match="top1, top5, loss"):
        own.to_csv(tmp_path / "b.csv")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has the columns"),
        ("parameter,sparsity,top1\n", "has the columns parameter, sparsity, top1;"),
        ("parameter,sparsity,top1,top5,loss\na,0.0,1,1,x\n", "line 2"),
        ("parameter,sparsity,top1,top5,loss\na,0.5,1,1,1\n", "0 among them"),
        ("parameter,sparsity,top1,top5,loss\na,0.0,1,1,1\na,0.5,1,1,1\nb,0.0,1,1,1\n", "the same sparsities"),
        ("parameter,sparsity,top1,top5,loss\na,0.0,1,1,1\na,0.5\n", "line 3"),
    ],
)
def test_another_table_is_refused(tmp_path, text, sentence):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(FileError, match=sentence):
        Curves.from_csv(tmp_path / "a.csv")


def test_paths_that_cannot_be_are_named(tmp_path):
    with pytest.raises(FileError, match="cannot be written"):
        curves().to_csv(tmp_path / "no" / "a.csv")
    with pytest.raises(FileError, match="cannot be read"):
        Curves.from_csv(tmp_path / "none.csv")
