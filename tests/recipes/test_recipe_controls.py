"""The random control: the same run, the same size, units by lot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from criteria_tables import rows
from prunus.criteria import Random
from prunus.errors import RecipeError
from prunus.recipes import open_recipe, run
from prunus.report import validate
from prunus.statistics import Statistics
from prunus.training import load_checkpoint
from recipes.tiny_project import write_project


def test_the_control_prunes_as_much_and_leaves_the_run_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "both").mkdir()
    alone = run(open_recipe(write_project(tmp_path / "plain"))).facts
    opened = open_recipe(write_project(tmp_path / "both"), ["controls=[random]"])
    facts = run(opened).facts
    validate(facts)
    (control,) = facts["baselines"]
    assert control["name"] == "random"
    assert (control["macs"], control["parameters"]) == (facts["pruned"]["macs"], facts["pruned"]["parameters"])
    assert set(control["metrics"]["test"]) == {"top1", "top5", "loss"}
    assert facts["pruned"]["metrics"] == alone["pruned"]["metrics"]
    assert [row["stage"] for row in facts["history"]] == [row["stage"] for row in alone["history"]]
    saved = load_checkpoint(tmp_path / "both" / "out" / "state" / "random-prune.safetensors")
    for group, weight in (("0", "0.weight"), ("3", "3.weight")):  # the lot is drawn from seed and name alone
        lot = Random(seed=3).score(rows(torch.zeros(8, 1), name=weight), Statistics())
        pruned = saved["pruning"]["policies"]["filters"]["pruned"][group]
        assert pruned.nonzero().flatten().tolist() == sorted(lot.argsort()[:4].tolist())


def test_a_threshold_has_no_random_control(tmp_path: Path) -> None:
    recipe = write_project(tmp_path)
    settings = ["controls=[random]", "prune.policies[0].allocation={threshold: {'*': 0.1}}"]
    with pytest.raises(RecipeError, match="random scores cannot meet it"):
        open_recipe(recipe, settings)
