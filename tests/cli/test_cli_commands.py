"""The commands: what they print, what they leave, how they end."""

import json
import subprocess
import sys

import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner

from prunus import __version__, prune, save, zoo
from prunus.cli.app import app
from prunus.recipes import packaged
from prunus.recipes.load import load_recipe
from prunus.recipes.opening import open_recipe
from recipes.tiny_project import write_project


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_version_three_ways():
    for arguments in (["version"], ["--version"]):
        assert invoke(*arguments).output == f"prunus {__version__}\n"
    done = subprocess.run([sys.executable, "-m", "prunus", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"prunus {__version__}\n"


def test_help_and_version_do_not_import_torch():
    code = "import sys, prunus.cli.app; sys.exit('torch' in sys.modules or 'pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_set_of_commands_and_options_grows_on_purpose():
    assert {command.name for command in app.registered_commands} == {
        "quickstart", "run", "sensitivity", "search", "inspect", "verify", "report", "schema", "version",
    }  # fmt: skip
    found = invoke("run", "--help").output
    for option in ("--set", "--out", "--dry-run", "--fresh", "--resume"):
        assert option in found
    found = invoke("sensitivity", "--help").output
    for option in (
        *("--granularity", "--criterion", "--levels", "--targets", "--max-drop", "--target", "--fresh"),
        *("--workers", "--part", "--approximate", "--set", "--out"),
    ):
        assert option in found


def test_schema_is_json_schema():
    schema = json.loads(invoke("schema").output)
    assert schema["type"] == "object"
    assert "prune" in schema["required"]


def test_run_then_report(tmp_path):
    recipe = write_project(tmp_path, sensitivity=None, fine_tune=None)
    first = invoke("run", recipe, "--set", "name=mine [x]", "--set", "train.epochs=2")
    assert first.exit_code == 0, first.output
    assert "train 2/2: loss" in first.output
    assert "mine [x]" in first.output
    out = tmp_path / "out"
    facts = json.loads((out / "report.json").read_text())
    assert facts["name"] == "mine [x]"
    assert facts["ratio"]["macs"] == pytest.approx(facts["dense"]["macs"] / facts["pruned"]["macs"])
    assert facts["difference"]["test.top1"] == pytest.approx(
        facts["pruned"]["metrics"]["test"]["top1"] - facts["dense"]["metrics"]["test"]["top1"]
    )
    assert facts["verdict"]
    assert "<html" in (out / "report.html").read_text()
    kept = (out / "recipe.yaml").read_text()
    assert kept.startswith("# recipe.yaml --set name=mine [x] --set train.epochs=2\n")
    assert load_recipe(out / "recipe.yaml").train.epochs == 2
    again = invoke("run", recipe, "--set", "name=mine [x]", "--set", "train.epochs=2")
    assert again.exit_code == 0
    assert "is finished; its report is written again" in again.output
    (out / "report.html").unlink()
    assert invoke("report", out).exit_code == 0
    assert (out / "report.html").exists()


def test_sensitivity_prints_the_schedule_and_where_everything_is(tmp_path):
    recipe = write_project(tmp_path, fine_tune=None)
    options = (
        "--levels",
        "0.25,0.5",
        "--max-drop",
        "0.1",
        "--targets",
        "0",
        "--targets",
        "3",
        "--set",
        "train.epochs=1",
    )
    done = invoke("sensitivity", recipe, *options)
    assert done.exit_code == 0, done.output
    assert "top1 by sparsity (filter, l1)" in done.output
    assert "the schedule" in done.output
    assert f"page: {tmp_path / 'out' / 'sensitivity.html'}" in done.output
    budget = invoke("sensitivity", recipe, "--set", "train.epochs=1", "--target", "macs=0.6", "--levels", "0.25,0.5")
    assert budget.exit_code == 0, budget.output
    assert "MACs (" in budget.output
    for wrong, sentence in (("--levels=0.5,1", "level is 1"), ("--target=macs", "macs=0.5"), ("--targets=nix", "nix")):
        failed = invoke("sensitivity", recipe, "--set", "train.epochs=1", wrong)
        assert failed.exit_code == 2
        assert sentence in failed.output
        assert failed.output.count("error: ") == 1


def test_report_of_nothing(tmp_path):
    done = invoke("report", tmp_path)
    assert done.exit_code == 2
    assert "error: there is no finished run in" in done.output


def test_interrupted_then_the_same_command_goes_on(tmp_path, monkeypatch):
    recipe = write_project(tmp_path, sensitivity=None, fine_tune=None)
    monkeypatch.setenv("TINY_INTERRUPT", "8")
    stopped = invoke("run", recipe)
    assert stopped.exit_code == 130
    assert stopped.output.endswith("interrupted; run the same command to go on\n")
    monkeypatch.delenv("TINY_INTERRUPT")
    done = invoke("run", recipe, "--resume")
    assert done.exit_code == 0, done.output
    assert "train 1/3" not in done.output
    assert "train 2/3" in done.output


def test_the_unchanged_recipe_is_copied_as_it_was_written(tmp_path):
    recipe = write_project(tmp_path)
    recipe.write_text("# my comment\n" + recipe.read_text())
    assert open_recipe(recipe).text == recipe.read_text()
    assert not open_recipe(recipe, out="elsewhere").text.startswith("# my comment")


def test_dry_run_and_inspect(tmp_path, monkeypatch):
    recipe = write_project(tmp_path)
    plan = invoke("run", recipe, "--dry-run")
    assert plan.exit_code == 0
    assert "0: keeps 4 of 8 channels" in plan.output
    assert not (tmp_path / "out").exists()
    monkeypatch.chdir(tmp_path)
    shown = invoke("inspect", "user.py:net", "--input", "1,1,8,8")
    assert shown.exit_code == 0, shown.output
    assert "2 groups" in shown.output
    assert "it is an output of the model" in shown.output


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ("1,x", "--input 1,x: want sizes with commas"),
        ("1,0", "every size must be at least 1"),
        ("1,2:int9", "want float32 or int64 after the colon, got int9"),
        (None, "Missing option '--input'"),
        ("1,2,3,3", "error: "),
    ],
)
def test_inspect_refuses_wrong_shapes(shape, sentence):
    arguments = ["inspect", "prunus.zoo:quickstart_net_digits", *(["--input", shape] if shape else [])]
    done = invoke(*arguments)
    assert done.exit_code == 2, done.exception
    assert sentence in done.output


@pytest.mark.parametrize(
    ("command", "required"),
    [
        ("run", ["recipe"]),
        ("inspect", ["MODULE:FUNCTION", "--input"]),
        ("verify", ["MODULE:FUNCTION", "FILE.prunus", "--input"]),
        ("report", ["folder"]),
    ],
)
def test_help_marks_what_is_required_and_its_lack_is_named(command, required):
    rows = [line.split() for line in invoke(command, "--help").output.splitlines()]
    assert [row[2] for row in rows if row[:2] == ["│", "*"]] == required
    done = invoke(command)
    assert done.exit_code == 2
    assert "Missing" in done.output


def test_inspect_with_a_policy_shows_what_makes_up_for_lost_units():
    arguments = ["inspect", "prunus.zoo:vit_cifar", "--input", "1,3,32,32", "--inexact"]
    done = invoke(*arguments, "compensate")
    assert done.exit_code == 0, done.output
    assert "compensated: attention" in done.output
    assert "must keep equally many units" in done.output
    assert "blocks.0.attention.query#2" in done.output.replace("\n", "")
    wrong = invoke(*arguments, "permit")
    assert wrong.exit_code == 2
    assert "error: inexact is 'permit'; choose one of forbid, compensate, allow" in wrong.output


def test_inspect_of_a_dense_model_lists_no_zeros():
    done = invoke("inspect", "prunus.zoo:lenet5", "--input", "1,1,28,28")
    assert done.exit_code == 0, done.output
    assert "8 tensors without zeros" in done.output
    assert "conv1.weight" not in done.output.rpartition("sparsity")[2]


def test_inspect_takes_indices():
    done = invoke("inspect", "prunus.zoo:gpt_tiny", "--input", "1,16:int64")
    assert done.exit_code == 0, done.output


def test_inspect_draws_a_picture(tmp_path):
    arguments = ["inspect", "prunus.zoo:lenet5", "--input", "1,1,28,28", "--picture"]
    done = invoke(*arguments, tmp_path / "lenet.svg")
    assert done.exit_code == 0, done.output
    assert "lenet.svg" in done.output.splitlines()[-1]
    assert (tmp_path / "lenet.svg").read_text(encoding="utf-8").startswith("<svg")
    (tmp_path / "file").write_text("")
    assert "cannot write" in invoke(*arguments, tmp_path / "file" / "lenet.svg").output


def test_debug_shows_where_an_error_came_from(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNUS_DEBUG", "1")
    assert isinstance(invoke("report", tmp_path).exception, ValueError)


@pytest.mark.parametrize("name", sorted(packaged.RECIPES))
def test_packaged_recipes_are_right(name, tmp_path):
    opened = packaged.quickstart(name, tmp_path / "out")
    assert opened.recipe.out == str(tmp_path / "out")
    assert opened.recipe.finish.thin


def test_quickstart_falls_back_to_digits_and_stays_with_them(tmp_path, monkeypatch):
    from prunus import zoo
    from prunus.errors import FileError

    def absent():
        raise FileError("Fashion-MNIST is nowhere")

    def short(path, *, out):
        return open_recipe(
            path, ["train.epochs=1", "prune.epochs=1", "fine_tune=null", "finish.latency=false"], out=out
        )

    monkeypatch.setattr(zoo, "fashion_mnist", absent)
    monkeypatch.setattr(packaged, "open_recipe", short)
    done = invoke("quickstart", "--out", tmp_path / "q", "--no-open")
    assert done.exit_code == 0, done.output
    assert "using the digits of scikit-learn: Fashion-MNIST is nowhere" in done.output
    assert (tmp_path / "q" / "report.html").exists()
    monkeypatch.setattr(zoo, "fashion_mnist", lambda: None)
    again = invoke("quickstart", "--out", tmp_path / "q", "--no-open")
    assert "is finished" in again.output
    assert "(digits)" in again.output


def test_verify_three_ways_to_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, x = zoo.build("lenet5"), zoo.example_input("lenet5")
    small, _ = prune(model, x, ratio=0.5, measure_latency=False)
    save(small, tmp_path / "small.prunus")
    save_file(model.state_dict(), tmp_path / "dense.safetensors")
    arguments = ["verify", "prunus.zoo:lenet5", "small.prunus", "--input", "2,1,28,28"]
    done = invoke(*arguments)
    assert done.exit_code == 0, done.output
    assert "draws of random weights and inputs: 3" in done.output
    assert done.output.endswith("\nholds\n")
    assert "untouched: exact slices of the dense ones" in invoke(*arguments, "--dense", "dense.safetensors").output
    other = invoke("verify", "prunus.zoo:lenet_300_100", *arguments[2:])
    assert other.exit_code == 1
    assert "does not hold: the thinned model was not made from prunus.zoo.lenet.LeNet300" in other.output
    for wrong, sentence in (
        (["verify", "prunus.zoo:lenet5", "missing.prunus", "--input", "1,1,28,28"], "there is no file missing.prunus"),
        ([*arguments, "--dense", "missing.safetensors"], "there is no file missing.safetensors"),
        ([*arguments, "--dense", "small.prunus"], "small.prunus does not hold the weights of LeNet5"),
        (arguments[:3], "Missing option '--input'"),
    ):
        failed = invoke(*wrong)
        assert failed.exit_code == 2, failed.output
        assert sentence in failed.output
