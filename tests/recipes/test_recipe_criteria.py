"""Recipes whose criteria and solvers observe training batches: what they log, and that a resumed run is the same."""

import json

import pytest

from prunus.errors import InputError, RecipeError
from prunus.recipes import open_recipe, run
from recipes.test_recipe_run import assert_same_run
from recipes.tiny_project import interrupted_and_resumed, policy, write_project

PRUNE = {
    "epochs": 3,
    "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
    "calibration": 3,
    "policies": [
        {
            "granularity": "filter",
            "criterion": "taylor",
            "solver": "lstsq",
            "schedule": {"kind": "iterative", "final": 0.5, "rounds": 2},
        },
        {"granularity": "2:4", "targets": "3.weight", "criterion": "wanda", "schedule": {"kind": "one_shot"}},
    ],
}


def project(folder):
    return write_project(folder, prune=PRUNE, sensitivity={"levels": [0.5], "criterion": "taylor"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder / "out", run(open_recipe(project(folder))).facts


def test_the_model_is_pruned_mended_and_proved(whole):
    out, facts = whole
    assert facts["proof"]["passed"]
    assert {group["name"]: group["kept"] for group in facts["groups"]} == {"0": 4, "3": 4}
    events = [
        event for line in (out / "log.jsonl").read_text().splitlines() for event in json.loads(line).get("events", [])
    ]
    assert any("mean output error" in event.get("mended", "") for event in events)


@pytest.mark.parametrize("batch", [30, 45, 60, 75])
def test_interrupted_anywhere_the_resumed_run_is_the_same(tmp_path, whole, batch):
    assert_same_run(tmp_path / "out", interrupted_and_resumed(project(tmp_path), batch), whole)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"solver": "lstq"}, RecipeError, r"solver.*did you mean lstsq"),
        ({"criterion": "taylr"}, RecipeError, r"criterion.*did you mean taylor"),
        ({"criterion": "bn_scale", "granularity": "element"}, InputError, "no batch norm scales its units"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        run(open_recipe(write_project(tmp_path, prune=policy(**changes))))
    assert not (tmp_path / "out").exists()
