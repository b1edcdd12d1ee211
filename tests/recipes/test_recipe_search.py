"""`prunus search`: from a recipe to a recipe with ratios, which runs; killed anywhere it goes on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from prunus.cli.app import app
from recipes.tiny_project import OWN_CLASS, policy, write_project


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def project(folder, **changes):
    return write_project(folder, sensitivity=None, fine_tune=None, prune=policy(), **changes)


def trials(place):
    return [json.loads(line) for line in (place / "search.jsonl").read_text().splitlines()[1:]]


def test_search_then_run_what_it_found(tmp_path):
    recipe = project(tmp_path)
    found = invoke("search", recipe, "--method", "amc", "--target", "macs=0.5", "--trials", "5")
    assert found.exit_code == 0, found.output
    assert "train 3/3: loss" in found.output
    place = tmp_path / "out" / "search" / "amc-macs-0.5-3"
    assert {"search.jsonl", "search.jsonl.state", "front.svg", "learning.svg", "searched.yaml"} <= set(
        os.listdir(place)
    )
    assert len(trials(place)) == 6
    assert f"next: prunus run {place / 'searched.yaml'}" in found.output

    ratios = yaml.safe_load((place / "searched.yaml").read_text())["prune"]["policies"][0]["allocation"]["per_layer"]
    ran = invoke("run", place / "searched.yaml")
    assert ran.exit_code == 0, ran.output
    assert "train 3/3: loss" not in ran.output, "the trained weights are taken over"
    facts = json.loads((place / "run" / "report.json").read_text())
    best = max((t for t in trials(place) if t["is_met"]), key=lambda t: t["metrics"]["top1"])
    assert facts["pruned"]["macs"] == pytest.approx(best["share"] * facts["dense"]["macs"])
    assert facts["ratio"]["macs"] >= 2
    assert {name: round(8 * ratio) for name, ratio in ratios.items()} == {n: c for n, c in best["counts"].items() if c}

    words = ("search", recipe, "--method", "amc", "--target", "macs=0.5", "--trials", "5")
    again = invoke(*words)
    assert again.exit_code == 0
    assert "train 3/3: loss" not in again.output
    assert json.loads((place / "run" / "report.json").read_text()) == facts, "what was run stays"

    picked = invoke(*words, "--pick", "2")
    assert picked.exit_code == 0, picked.output
    assert "front: trial" in picked.output
    ran = invoke("run", place / "searched-2.yaml")
    assert ran.exit_code == 0, ran.output
    other = json.loads((place / "run-2" / "report.json").read_text())
    assert other["pruned"]["macs"] == pytest.approx(trials(place)[2]["share"] * other["dense"]["macs"])
    none = invoke(*words, "--pick", "6")
    assert none.exit_code == 2
    assert "there is no candidate 6; the search tried 1 to 5" in none.output
    assert invoke("run", recipe).exit_code == 0, "the recipe itself still runs in its folder"


def test_workers_train_candidates_of_the_users_own_classes_to_the_same_result(tmp_path):
    found = []
    for name, workers in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        recipe = project(tmp_path / name, more=OWN_CLASS, model="user.py:Net")
        words = ("search", recipe, "--method", "netadapt", "--target", "macs=0.6", "--steps", "2", "--workers", workers)
        result = invoke(*words)
        assert result.exit_code == 0, result.output
        found.append(trials(tmp_path / name / "out" / "search" / "netadapt-macs-0.6-3"))
    assert found[0] == found[1]
    refused = invoke("search", recipe, "--method", "amc", "--target", "macs=0.6", "--workers", 2)
    assert refused.exit_code != 0
    assert "those of amc are judged one after the other" in refused.output


def test_netadapt_trains_candidates_and_fresh_begins_anew(tmp_path):
    recipe = project(tmp_path)
    words = ("search", recipe, "--method", "netadapt", "--target", "macs=0.6", "--seed", "1", "--steps", "2")
    assert invoke(*words).exit_code == 0
    place = tmp_path / "out" / "search" / "netadapt-macs-0.6-1"
    first = trials(place)
    assert first[1]["units"]
    (place / "search.jsonl").unlink()
    assert "lacks trials that its state file counts" in invoke(*words).output
    assert invoke(*words, "--fresh").exit_code == 0
    assert trials(place) == first


KILLING = """
import torch
calls = 0
def accuracy(model, loader):
    global calls
    calls += 1
    if str(calls) == os.environ.get("TINY_KILL_EVALUATE"):
        os.kill(os.getpid(), signal.SIGKILL)
    hits = [(model(x).argmax(1) == y).float() for x, y in loader]
    return float(torch.cat(hits).mean())
"""


@pytest.mark.parametrize("kill_at", [2, 9])
def test_killed_in_training_or_search_and_gone_on_is_the_same(tmp_path, kill_at):
    places = []
    for name in ("whole", "part"):
        (tmp_path / name).mkdir()
        recipe = project(tmp_path / name, more=KILLING, metrics=["user.py:accuracy"])
        words = ["search", str(recipe), "--method", "netadapt", "--target", "macs=0.7"]
        if name == "part":
            code = f"import sys; from prunus.cli import main; sys.argv = ['prunus', *{words!r}]; main()"
            killed = subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "TINY_KILL_EVALUATE": str(kill_at)},
                capture_output=True,
                check=False,
            )
            assert killed.returncode == -signal.SIGKILL
        done = invoke(*words)
        assert done.exit_code == 0, done.output
        places.append(tmp_path / name / "out" / "search" / "netadapt-macs-0.7-3")
    assert trials(places[0]) == trials(places[1])
    ratios = [yaml.safe_load((place / "searched.yaml").read_text())["prune"] for place in places]
    assert ratios[0] == ratios[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "macs=0.5", "--method", "amcc"], "no search method named 'amcc'; did you mean amc"),
        (["--target", "mac=0.5"], "no budget named 'mac'; did you mean macs"),
        (["--target", "macs=0.5", "--method", "netadapt", "--trials", "3"], "trials=3 says nothing to netadapt"),
        (["--target", "macs=0.5", "--trials", "0"], "whole number of at least 1"),
        (["--target", "macs=0.5", "--method", "netadapt", "--steps", "-1"], "steps is -1"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_trained(tmp_path, words, said):
    found = invoke("search", project(tmp_path), *words)
    assert found.exit_code == 2
    assert said in found.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("library", "extra", "words"),
    [
        ("optuna", "search", ("search", "--method", "bayes", "--target", "macs=0.5")),
        ("onnxruntime", "onnx", ("search", "--target", "latency=0.6@onnxruntime")),
        ("onnxruntime", "onnx", ("sensitivity", "--target", "latency=0.6@onnxruntime")),
        ("onnxruntime", "onnx", ("sensitivity", "--latency", "onnxruntime")),
    ],
)
def test_a_missing_library_is_named_before_anything_is_trained(tmp_path, monkeypatch, library, extra, words):
    monkeypatch.setitem(sys.modules, library, None)
    command, *options = words
    found = invoke(command, project(tmp_path), *options)
    assert found.exit_code == 2
    assert f"pip install 'prunus[{extra}]'" in found.output
    assert not (tmp_path / "out").exists()


def test_a_target_has_to_be_given(tmp_path):
    found = invoke("search", project(tmp_path))
    assert found.exit_code == 2
    assert "--target" in found.output


def test_one_policy_is_searched(tmp_path):
    found = invoke("search", write_project(tmp_path), "--target", "macs=0.5")
    assert found.exit_code == 2
    assert "prune.policies has 2" in found.output
    assert not Path(tmp_path / "out").exists()


def test_a_search_that_finds_nothing_better_than_the_dense_model_says_so(tmp_path):
    pytest.importorskip("optuna")
    recipe = write_project(tmp_path, sensitivity=None, fine_tune=None, prune=policy(), finish={"recalibrate": False})
    words = ("search", recipe, "--method", "evolve", "--target", "macs=1")
    found = invoke(*words, "--trials", "3", "--set", "train.epochs=6")
    assert found.exit_code == 2, found.output
    assert "the best that evolve found for macs=1 is the dense model; lower the target, or --pick one" in found.output
    assert not list((tmp_path / "out").glob("search/*/searched*.yaml"))


def test_other_settings_than_the_store_s_say_how_to_begin_anew(tmp_path):
    words = ("search", project(tmp_path), "--method", "netadapt", "--target", "macs=0.7")
    assert invoke(*words, "--steps", "0").exit_code == 0
    found = invoke(*words)
    assert found.exit_code == 2
    assert "is of another search" in found.output
    assert "delete it (--fresh) to start anew" in found.output
    assert invoke(*words, "--fresh").exit_code == 0


def test_a_budget_out_of_reach_keeps_what_was_trained(tmp_path):
    found = invoke("search", project(tmp_path), "--target", "macs=0.001")
    assert found.exit_code == 2
    assert "out of reach" in found.output
    assert (tmp_path / "out" / "state" / "train.safetensors").exists()
