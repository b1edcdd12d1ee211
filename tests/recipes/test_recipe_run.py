"""A whole run: its files, its facts, and that a resumed run equals the uninterrupted one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prunus.errors import CaptureError, FileError, InputError, NameNotFound, NothingToPrune
from prunus.recipes import open_recipe, preview, read_facts, run, stages
from prunus.recipes.folder import RunFolder, differences
from prunus.recipes.parts import find_parts
from prunus.report import validate
from prunus.training import load_checkpoint
from recipes.tiny_project import interrupted_and_resumed, policy, write_project

EPOCHS = [
    (stage, epoch) for stage, last in (("train", 3), ("prune", 3), ("fine_tune", 2)) for epoch in range(1, last + 1)
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    result = run(open_recipe(write_project(folder)))
    return folder / "out", result.facts


def without_times(value):
    """Facts without what differs between two runs of the same thing: times, dates, folders."""
    if isinstance(value, dict):
        gone = {"seconds", "created", "out", "latency"}
        return {key: without_times(item) for key, item in value.items() if key not in gone}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def assert_same_run(out, facts, whole):
    assert list(differences(without_times(facts), without_times(whole[1]))) == []
    assert (out / "model.prunus").read_bytes() == (whole[0] / "model.prunus").read_bytes()
    for stage in ("train", "prune", "fine_tune"):
        ours, theirs = (load_checkpoint(root / "state" / f"{stage}.safetensors") for root in (out, whole[0]))
        for name, tensor in theirs["model"].items():
            assert torch.equal(ours["model"][name], tensor)


def test_the_folder_holds_what_is_promised(whole):
    out, _ = whole
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert names == {
        "recipe.yaml", "log.jsonl", "sensitivity.jsonl", "sensitivity.html", "model.prunus",
        "state/run.json", "state/facts.json",
        "state/train.safetensors", "state/prune.safetensors", "state/fine_tune.safetensors",
    }  # fmt: skip
    assert [(line["stage"], line["epoch"]) for line in log_lines(out.parent)] == EPOCHS


def test_the_facts_are_a_report_and_count_what_is_there(whole):
    out, facts = whole
    validate(facts)
    assert facts["data"] == {"name": "tiny digits", "sizes": {"train": 128, "validation": 64, "test": 64}}
    assert facts["seeds"] == [3]
    assert facts["proof"]["passed"]
    assert set(facts["dense"]["metrics"]["test"]) == {"top1", "top5", "loss"}
    assert facts["dense"]["parameters"] == 8 * 9 + 8 + 16 + 64 * 9 + 8 + 16 + 80 + 10
    assert {group["name"]: group["kept"] for group in facts["groups"]} == {"0": 4, "3": 4}
    tensors = {n: t for n, t in load_file(out / "model.prunus").items() if not n.startswith("prunus.mask/")}
    assert facts["pruned"]["parameters"] == sum(
        t.numel() for name, t in tensors.items() if name.endswith(("weight", "bias"))
    )
    kept = tensors["3.weight"]
    assert kept.shape == (4, 4, 3, 3)
    (mask,) = facts["masks"]
    assert mask["name"] == "3.weight"
    assert mask["shape"] == [4, 4, 3, 3]
    assert mask["sparsity"] == pytest.approx(float((kept == 0).double().mean()))
    assert 0 < mask["sparsity"] < 1
    assert facts["history"][-1]["macs"] == facts["pruned"]["macs"]
    assert facts["history"][0]["macs"] == facts["dense"]["macs"]
    assert facts["history"][-1]["validation"] == facts["pruned"]["metrics"]["validation"]
    assert facts["sensitivity"]["split"] == "validation"
    assert set(facts["sensitivity"]["curves"]) == {"0", "3"}


def test_the_saved_model_is_the_model_that_was_measured(whole):
    import prunus.plans as plans

    out, facts = whole
    sys.path.append(str(out.parent))
    opened = open_recipe(out.parent / "recipe.yaml")
    parts = find_parts(opened.recipe, opened.folders)
    model = plans.load(out / "model.prunus", parts.build_model)
    assert parts.evaluate(model, "test") == facts["pruned"]["metrics"]["test"]


def test_a_finished_run_is_left_alone(whole):
    out, facts = whole
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = run(open_recipe(out.parent / "recipe.yaml"))
    assert again.was_finished
    assert again.facts == json.loads(json.dumps(facts))
    assert read_facts(out) == again.facts
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize("batch", [2, 6, 13, 15, 23, 27, 30, 33])
def test_interrupted_anywhere_the_resumed_run_is_the_same(tmp_path, whole, batch):
    """One batch is the rehearsal's; 4 make an epoch; 3 + 3 + 2 epochs and the recalibration read the rest."""
    assert_same_run(tmp_path / "out", interrupted_and_resumed(write_project(tmp_path), batch), whole)


def test_killed_again_and_again_the_run_is_the_same(tmp_path, whole):
    recipe = write_project(tmp_path)
    command = [sys.executable, "-m", "prunus", "run", str(recipe)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    for batch in ("7", "11", "6"):
        killed = subprocess.run(command, env={**environment, "TINY_KILL": batch}, capture_output=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    with (tmp_path / "out" / "log.jsonl").open("a") as log:
        log.write('{"stage": "pru')  # a line that the kill cut
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert_same_run(tmp_path / "out", read_facts(tmp_path / "out"), whole)
    assert [(line["stage"], line["epoch"]) for line in log_lines(tmp_path)] == EPOCHS


def test_a_kill_between_checkpoint_and_log_loses_no_line(tmp_path, monkeypatch):
    opened = open_recipe(write_project(tmp_path))
    log = RunFolder.log

    def stop(folder, entry):
        if (entry["stage"], entry["epoch"]) == ("prune", 2):
            raise KeyboardInterrupt
        log(folder, entry)

    monkeypatch.setattr(RunFolder, "log", stop)
    with pytest.raises(KeyboardInterrupt):
        run(opened)
    monkeypatch.setattr(RunFolder, "log", log)
    run(opened)
    assert [(line["stage"], line["epoch"]) for line in log_lines(tmp_path)] == EPOCHS


def test_another_recipe_in_the_folder_is_refused_and_fresh_starts_anew(tmp_path):
    first = write_project(tmp_path, sensitivity=None, fine_tune=None)
    run(open_recipe(first))
    (tmp_path / "out" / "notes.txt").write_text("mine")
    second = open_recipe(first, ["train.epochs=1"])
    with pytest.raises(InputError, match=r"holds a run of another recipe: train.epochs is 3 there and 1 here.*--fresh"):
        run(second)
    assert len(run(second, fresh=True).facts["history"]) == 4
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_an_error_before_a_fresh_start_keeps_the_old_run(tmp_path):
    first = write_project(tmp_path, sensitivity=None, fine_tune=None)
    facts = run(open_recipe(first)).facts
    with pytest.raises(InputError, match=r"no attribute of user.py named 'nett'"):
        run(open_recipe(first, ["model=user.py:nett"]), fresh=True)
    assert read_facts(tmp_path / "out") == json.loads(json.dumps(facts))


def test_resume_needs_a_run(tmp_path):
    with pytest.raises(InputError, match=r"there is no run to resume in"):
        run(open_recipe(write_project(tmp_path)), resume=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"junk", lambda b: b[:-3] + b"xyz"])
def test_a_damaged_checkpoint_is_named(tmp_path, monkeypatch, damage):
    opened = open_recipe(write_project(tmp_path))
    monkeypatch.setenv("TINY_INTERRUPT", "7")
    with pytest.raises(KeyboardInterrupt):
        run(opened)
    monkeypatch.delenv("TINY_INTERRUPT")
    path = tmp_path / "out" / "state" / "train.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FileError, match=r"checkpoint .*train.safetensors is damaged"):
        run(opened)


def test_a_checkpoint_of_another_model_is_named(tmp_path, monkeypatch):
    recipe = write_project(tmp_path)
    monkeypatch.setenv("TINY_INTERRUPT", "7")
    with pytest.raises(KeyboardInterrupt):
        run(open_recipe(recipe))
    monkeypatch.delenv("TINY_INTERRUPT")
    user = tmp_path / "user.py"
    user.write_text(user.read_text().replace("width=8", "width=6"))
    for name in [name for name in sys.modules if name.startswith("prunus_user")]:
        del sys.modules[name]
    with pytest.raises(FileError, match=r"checkpoint of stage train does not fit Sequential.*--fresh"):
        run(open_recipe(recipe))


def test_zeros_alone_keep_the_shape_and_stay_zero(tmp_path):
    recipe = write_project(
        tmp_path, sensitivity=None, prune=policy(granularity="element", schedule={"kind": "one_shot", "final": 0.7})
    )
    facts = run(open_recipe(recipe)).facts
    assert facts["pruned"]["parameters"] == facts["dense"]["parameters"]
    assert facts["pruned"]["macs"] == facts["dense"]["macs"]
    weights = load_file(tmp_path / "out" / "model.prunus")
    assert {mask["name"] for mask in facts["masks"]} == {"0.weight", "3.weight", "9.weight"}
    for mask in facts["masks"]:  # after two epochs of fine-tuning
        assert float((weights[mask["name"]] == 0).double().mean()) == pytest.approx(mask["sparsity"])
        assert mask["sparsity"] == pytest.approx(0.7, abs=0.01)


def test_without_thinning_the_zeros_stay(tmp_path):
    recipe = write_project(tmp_path, sensitivity=None, fine_tune=None, finish={"thin": False, "latency": False})
    facts = run(open_recipe(recipe)).facts
    assert facts["pruned"]["parameters"] == facts["dense"]["parameters"]
    assert facts["pruned"]["nonzeros"] < 0.6 * facts["dense"]["nonzeros"]


def test_a_model_without_training_epochs_is_pruned_as_it_came(tmp_path):
    recipe = write_project(tmp_path, sensitivity=None, fine_tune=None, train=None, prune=policy())
    facts = run(open_recipe(recipe)).facts
    (row,) = facts["history"]
    assert row["stage"] == "prune"
    assert row["lr"] == pytest.approx(1e-4)  # adam's 1e-3 / 10


def test_the_dense_figures_are_of_the_dense_checkpoint(whole):
    _, facts = whole
    trained = [row for row in facts["history"] if row["stage"] == "train"][-1]
    assert facts["dense"]["metrics"]["validation"] == trained["validation"]


def test_dry_run_shows_the_plan_and_writes_nothing(tmp_path):
    text = preview(open_recipe(write_project(tmp_path)))
    assert "0: keeps 4 of 8 channels" in text
    assert "3.weight: 89.9%" in text
    assert not (tmp_path / "out").exists()
    assert sorted(p.name for p in Path(tmp_path).iterdir() if p.is_file()) == ["recipe.yaml", "user.py"]


def test_the_test_split_is_read_for_the_report_only(tmp_path, monkeypatch):
    from prunus.recipes.parts import Parts

    reads = []
    original = Parts.evaluate

    def evaluate(self, model, split):
        reads.append(split)
        return original(self, model, split)

    monkeypatch.setattr(Parts, "evaluate", evaluate)
    run(open_recipe(write_project(tmp_path, sensitivity=None)))
    assert reads.count("test") == 2
    assert "test" not in reads[:-4]


def test_a_stop_condition_ends_the_pruning_and_says_so(tmp_path):
    recipe = write_project(tmp_path, sensitivity=None, fine_tune=None)
    rounds = "prune.policies[0].schedule={kind: iterative, rounds: 3, final: 0.5}"  # 7, 5, 4 of 8 filters
    facts = run(open_recipe(recipe, ["prune.stop=[{macs: 0.7}]", rounds])).facts
    assert facts["pruned"]["macs"] <= 0.7 * facts["dense"]["macs"]
    assert facts["pruned"]["macs"] > 0.4 * facts["dense"]["macs"]  # the whole schedule comes to 0.37 of them
    events = [event for line in log_lines(tmp_path) for event in line["events"]]
    assert [event["event"] for event in events].count("stopped") == 1


def test_the_guard_goes_back_to_the_last_good_state(tmp_path):
    guard = {"metric": "loss", "mode": "min", "max_drop": 0.0}
    recipe = write_project(tmp_path, sensitivity=None, fine_tune=None)
    settings = [
        f"prune.guard={guard}",
        "prune.optimizer={name: sgd, lr: 1e-12}",
        "prune.policies[1].schedule.final=0.6",
    ]
    with pytest.raises(NothingToPrune):  # already the first pruning made it worse
        run(open_recipe(recipe, settings))
    assert [e["event"] for line in log_lines(tmp_path) for e in line["events"]][-1] == "restored"


def test_the_guard_compares_with_the_dense_model(tmp_path):
    guarded = {**policy(), "guard": {"metric": "loss", "mode": "min", "max_drop": 100}}
    run(open_recipe(write_project(tmp_path, sensitivity=None, fine_tune=None, prune=guarded)))  # prunes at once
    assert [e["event"] for line in log_lines(tmp_path) for e in line["events"]] == ["pruned"]
    unknown = {**policy(), "guard": {"metric": "top2", "max_drop": 1}}
    with pytest.raises(NameNotFound, match=r"prune.guard.metric named 'top2'; did you mean"):
        run(open_recipe(write_project(tmp_path, prune=unknown, out=str(tmp_path / "b"))))


def test_every_model_that_is_built_is_the_same(tmp_path):
    opened = open_recipe(write_project(tmp_path))
    parts = find_parts(opened.recipe, opened.folders)
    first, second = (parts.build_model().state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def log_lines(folder):
    return [json.loads(line) for line in (folder / "out" / "log.jsonl").read_text().splitlines()]


def test_zeros_need_no_structure(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise CaptureError("it cannot be captured")

    monkeypatch.setattr(stages, "trace", refuse)
    facts = run(open_recipe(write_project(tmp_path, sensitivity=None, prune=policy(granularity="element")))).facts
    assert facts["proof"] is None
    assert facts["groups"] == []
    assert facts["pruned"]["nonzeros"] < 0.6 * facts["dense"]["nonzeros"]
    with pytest.raises(CaptureError):
        run(open_recipe(write_project(tmp_path, prune=policy(), out=str(tmp_path / "b"))))
    assert not (tmp_path / "b").exists()


def test_export_to_onnx(tmp_path):
    pytest.importorskip("onnxscript")
    finish = {"export": "onnx", "latency": False}
    facts = run(open_recipe(write_project(tmp_path, sensitivity=None, fine_tune=None, finish=finish))).facts
    assert facts["artifacts"]["onnx"] == "model.onnx"
    assert (tmp_path / "out" / "model.onnx").stat().st_size > 0


def test_two_policies_of_one_name_are_refused_before_anything_runs(tmp_path):
    recipe = write_project(tmp_path)
    with pytest.raises(InputError, match=r"two policies are named 'filters'"):
        run(open_recipe(recipe, ["prune.policies[1].name=filters"]))
    assert not (tmp_path / "out").exists()


def test_own_loss_and_metrics_are_used_and_judged(tmp_path):
    more = """
def mine(output, target):
    return 2 * nn.functional.cross_entropy(output, target)
def size(model, loader):
    return {"zeros": float(sum(int((p == 0).sum()) for p in model.parameters()))}
"""
    changes = {"loss": "user.py:mine", "metrics": ["user.py:size", "top1"], "fine_tune": None}
    facts = run(open_recipe(write_project(tmp_path, more=more, **changes))).facts
    assert list(facts["dense"]["metrics"]["validation"]) == ["zeros", "top1", "loss"]
    assert facts["sensitivity"]["metric"] == "zeros"
    assert facts["history"][0]["loss"] > 3.5  # twice the cross entropy of ten classes


@pytest.mark.parametrize(("wanted", "batches"), [(True, 4), (False, 4 * 6)])
def test_recalibration_counts_its_batches_anew(tmp_path, wanted, batches):
    finish = {"recalibrate": wanted, "latency": False}
    run(open_recipe(write_project(tmp_path, sensitivity=None, fine_tune=None, finish=finish)))
    assert int(load_file(tmp_path / "out" / "model.prunus")["1.num_batches_tracked"]) == batches
