"""A recipe whose policy names a budget instead of a fraction."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from prunus.cli.app import app
from prunus.errors import InputError, NameNotFound, NothingToPrune, RecipeError
from prunus.recipes import open_recipe, run
from prunus.recipes.preview import preview
from prunus.runtimes import register_device
from recipes.tiny_project import interrupted_and_resumed, policy, write_project
from runtimes.counting import Counting

AGP = {"kind": "agp", "begin": "0ep", "end": "2ep", "every": "1ep"}
WIDE = {"factory": "user.py:net", "args": {"width": 32}}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    register_device("counting", Counting)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def project(folder, target, schedule=AGP, **words):
    prune = {**policy(schedule=schedule, target=target, criterion="l2", **words), "epochs": 3}
    return write_project(folder, model=WIDE, sensitivity=None, fine_tune=None, prune=prune)


@pytest.mark.parametrize("target", ["macs=0.4", "latency=0.4@counting", "params=0.4"])
def test_a_gradual_run_meets_its_budget(tmp_path, target):
    opened = open_recipe(project(tmp_path, target))
    assert "keeps" in preview(opened)
    facts = run(opened).facts
    quantity = {"params": "parameters"}.get(target.split("=")[0], "macs")
    near = 0.15 if "latency" in target else 0.02  # a latency keeps to the steps of kernels, 8 of 32
    assert 0.4 - near <= facts["pruned"][quantity] / facts["dense"][quantity] <= 0.4
    figures = [row["macs"] for row in facts["history"] if row["stage"] == "prune"]
    assert figures == sorted(figures, reverse=True)
    assert figures[0] > 1.5 * figures[-1]


def test_a_dry_run_does_not_judge_a_budget_by_one_of_several_policies(tmp_path):
    schedule = {"kind": "one_shot", "final": 0.8}
    first = {"name": "first", "granularity": "filter", "targets": "3*", "schedule": schedule}
    second = {"name": "second", "granularity": "filter", "targets": "0*", "schedule": AGP, "target": "macs=0.25"}
    opened = open_recipe(write_project(tmp_path, sensitivity=None, prune={"epochs": 3, "policies": [second, first]}))
    assert "as much as meets it with what the other policies prune" in preview(opened)
    facts = run(opened).facts
    assert facts["pruned"]["macs"] <= 0.25 * facts["dense"]["macs"]


def test_macs_are_those_of_one_sample(tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
    dense = run(open_recipe(project(tmp_path / "a", "macs=0.5"))).facts["dense"]["macs"]
    opened = open_recipe(project(tmp_path / "b", f"macs<={int(0.4 * dense)}"))
    left = run(opened).facts["pruned"]["macs"]
    assert 0.38 * dense <= left <= 0.4 * dense
    rounds = {"kind": "iterative", "rounds": 3, "final": 0.9}
    stopped = write_project(tmp_path / "c", model=WIDE, sensitivity=None, fine_tune=None, prune={
        **policy(schedule=rounds), "epochs": 3, "stop": [{"macs": int(0.6 * dense)}],
    })  # fmt: skip
    assert 0.3 * dense < run(open_recipe(stopped)).facts["pruned"]["macs"] <= 0.6 * dense
    words = ("--method", "netadapt", "--steps", "0", "--target", f"macs<={int(0.5 * dense)}")
    searched = CliRunner().invoke(app, ["search", str(tmp_path / "b" / "recipe.yaml"), *words])
    assert searched.exit_code == 0, searched.output
    recipe = next((tmp_path / "b" / "out" / "search").glob("*/searched.yaml"))
    assert "target" not in yaml.safe_load(recipe.read_text())["prune"]["policies"][0]
    assert 0.45 * dense < run(open_recipe(recipe)).facts["pruned"]["macs"] <= 0.5 * dense


def test_killed_and_gone_on_meets_the_same(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    whole = run(open_recipe(project(tmp_path / "a", "macs=0.4", allocation="global"))).facts
    again = interrupted_and_resumed(project(tmp_path / "b", "macs=0.4", allocation="global"), 18)
    assert again["groups"] == whole["groups"]
    assert again["pruned"]["metrics"] == whole["pruned"]["metrics"]


def test_a_latency_that_was_met_is_in_the_log(tmp_path):
    run(open_recipe(project(tmp_path, "latency=0.4@counting")))
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    said = [event["latency"] for line in lines for event in line["events"] if "latency" in event]
    assert len(said) == 1
    assert "of the dense latency measured on counting, 0.400 asked" in said[0]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ({"target": "macs=0.4", "schedule": {**AGP, "final": 0.5}}, "target: macs=0.4 says how much goes, and so does"),
        ({"target": "mac=0.4"}, "did you mean macs"),
        ({"target": {"mac": 0.4}}, "did you mean macs"),
        ({"target": "macs=0.4", "round_to": 2.5}, r"round_to: got 2\.5; want a whole number of at least 1, or auto$"),
        ({"target": "macs=0.4", "round_to": 0}, "round_to: got 0; want a whole number of at least 1, or auto"),
        ({"target": "latency<=5ms@torch"}, "would be of a batch of two samples, .* such as latency=0.6@torch"),
        ({"target": "energy<=0.1"}, "would be of a batch of two samples, .* such as energy=0.6"),
        ({"target": "macs=0.4", "granularity": "element"}, "target: zeroed elements do not lower macs"),
        ({"target": None}, "schedule.final is missing; allocation uniform needs a fraction such as 0.5, or .* target"),
    ],
)
def test_budgets_that_cannot_be_are_refused_before_anything_runs(tmp_path, words, error):
    prune = policy(**{"schedule": AGP, **words})
    with pytest.raises(RecipeError, match=error):
        open_recipe(write_project(tmp_path, sensitivity=None, prune=prune))


def test_out_of_reach_is_said_before_training(tmp_path):
    with pytest.raises(InputError, match=r"target: macs=0\.01 is out of reach"):
        run(open_recipe(project(tmp_path, "macs=0.01", schedule={"kind": "one_shot", "begin": "2ep"}, max_ratio=0.5)))
    assert not list((tmp_path / "out").glob("state/*.safetensors"))


@pytest.mark.parametrize(
    ("words", "kind", "error"),
    [
        ({"target": "macs<=10"}, InputError, r"^prune\.policies\[0\]: budget macs<=10 is out of reach"),
        ({"target": {"params": 1e9}}, NothingToPrune, r"^prune\.policies\[0\]: budget params<=1e\+09 is met by the"),
        ({"target": "macs=0.5", "targets": {"kind": "head"}}, NameNotFound, r"^prune\.policies\[0\]: no kind of group"),
    ],
)
def test_a_dry_run_says_which_policy_is_wrong_in_the_users_words(tmp_path, words, kind, error):
    with pytest.raises(kind, match=error):
        preview(open_recipe(write_project(tmp_path, sensitivity=None, prune=policy(schedule=AGP, **words))))
    asked = words["target"] if isinstance(words["target"], str) else "params<=1e"
    with pytest.raises(kind, match=f"^policy 'filter': .*({asked}|no kind)"):
        run(open_recipe(tmp_path / "recipe.yaml"))
