"""Bad input: one clear sentence, exit code 2, nothing half written."""

import os

import pytest
from typer.testing import CliRunner

from prunus.cli.app import app
from recipes.tiny_project import policy, write_project


@pytest.fixture
def fails(tmp_path):
    """Run a project that must fail; returns its one sentence. Nothing may lie in the out folder."""

    def fails(*arguments, more="", written=False, **changes):
        recipe = write_project(tmp_path, more=more, **changes)
        result = CliRunner().invoke(app, ["run", str(recipe), *arguments])
        assert result.exit_code == 2, (result.output, result.exception)
        assert written or not (tmp_path / "out").exists()
        lines = [line for line in result.output.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert "Traceback" not in result.output
        return lines[0]

    return fails


def test_model_that_returns_no_tensor(fails):
    more = """
class Dict(nn.Sequential):
    def forward(self, x):
        return {"logits": super().forward(x)}
def dict_net():
    return Dict(*net())
"""
    assert "the model Dict returned dict, want one tensor" in fails(model="user.py:dict_net", more=more)


def test_model_function_that_returns_no_model(fails):
    assert "model: user.py:data returned a dict; want a torch.nn.Module" in fails(model="user.py:data")


def test_model_function_that_raises(fails):
    more = "\ndef broken():\n    raise OSError('weights are gone')\n"
    assert "model: user.py:broken raised OSError: weights are gone (user.py:" in fails(
        model="user.py:broken", more=more
    )


def test_data_function_that_raises(fails):
    more = "\ndef broken():\n    return 1 / 0\n"
    assert "data: user.py:broken raised ZeroDivisionError: division by zero" in fails(data="user.py:broken", more=more)


def test_data_without_a_split(fails):
    more = "\ndef half():\n    return {'train': []}\n"
    assert "returned a dict without validation; want train, validation and test" in fails(
        data="user.py:half", more=more
    )


def test_data_that_can_be_read_once(fails):
    more = "\ndef once():\n    return {s: iter([]) for s in ('train', 'validation', 'test')}\n"
    assert "data.train is a list_iterator, which can be read once only" in fails(data="user.py:once", more=more)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_empty_loaders(fails, split):
    more = f"\ndef empty():\n    return {{**data(), {split!r}: []}}\n"
    assert f"data.{split} is empty: it yielded no batch" in fails(data="user.py:empty", more=more)


def test_empty_test_loader_is_found_at_the_start(fails):
    more = "\ndef empty():\n    return {**data(), 'test': []}\n"
    assert "data.test is empty" in fails(data="user.py:empty", more=more)


def test_nan_in_the_first_loss(fails):
    more = "\ndef nan(output, target):\n    return output.sum() * float('nan')\n"
    assert "before training: the loss is nan" in fails(loss="user.py:nan", more=more)


def test_nan_in_a_later_loss_names_stage_epoch_and_step(fails, tmp_path):
    more = """
calls = 0
def later(output, target):
    global calls
    calls += output.requires_grad
    return nn.functional.cross_entropy(output, target) * (float("nan") if calls == 8 else 1.0)
"""
    assert "train, epoch 2, step 3: the loss is nan; lower" in fails(loss="user.py:later", more=more, written=True)
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert not (tmp_path / "out" / "model.prunus").exists()


@pytest.mark.parametrize("final", [1.0, -0.1, "40", "40%", 40, float("nan"), True])
def test_ratios_that_are_none(fails, final):
    sentence = fails(prune=policy(schedule={"kind": "one_shot", "final": final}))
    assert "prune.policies[0].schedule" in sentence
    assert "recipe.yaml:" in sentence
    if final in ("40", "40%", 40):
        assert "did you mean 0.4" in sentence


def test_two_of_four_on_three_columns(fails):
    more = "\ndef narrow():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.ReLU(), nn.Linear(3, 10))\n"
    sentence = fails(
        model="user.py:narrow", more=more, sensitivity=None, prune=policy(granularity="2:4", targets="3.weight")
    )
    assert "3.weight: 2:4 on a 3-column weight" in sentence


def test_patterns_that_match_nothing(fails):
    assert "convv" in fails(prune=policy(targets="convv*"))
    assert "Conv2" in fails(prune=policy(targets={"type": "Conv2"}))


def test_unwritable_out_folders(fails, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    assert f"cannot write into the out folder {blocker}" in fails(out=str(blocker / "out"))
    assert f"cannot write into the out folder {blocker}" in fails("--out", str(blocker))
    assert blocker.read_text() == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_out_folder(fails, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    assert "permission denied" in fails(out=str(folder / "out"))


def test_out_folder_with_a_stranger_s_files(fails, tmp_path):
    stranger = tmp_path / "theirs"
    stranger.mkdir()
    (stranger / "model.prunus").write_text("mine")
    assert "holds model.prunus, which no run of Prunus left; use another folder" in fails(out=str(stranger))
    assert "holds recipe.yaml" in fails(out=str(tmp_path))  # the recipe's own folder
    assert (stranger / "model.prunus").read_text() == "mine"


def test_recipe_from_a_newer_version(fails):
    assert "version: got 2; this recipe is from a newer Prunus" in fails(version=2, galaxy=7)


def test_file_full_of_junk(tmp_path):
    junk = tmp_path / "junk.yaml"
    junk.write_bytes(bytes(range(256)) * 40)
    result = CliRunner().invoke(app, ["run", str(junk)])
    assert result.exit_code == 2
    assert "junk.yaml is not a text file" in result.output


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "nowhere.module:net"}, "model: no module named 'nowhere' (asked by nowhere.module); looked in"),
        ({"model": "absent.py:net"}, "model: no file absent.py; looked for"),
        ({"model": "user.py:nett"}, "model: no attribute of user.py named 'nett'; did you mean net"),
        ({"model": {"factory": "user.py:net", "args": {"widht": 4}}}, "named 'widht'; did you mean width?"),
        ({"model": "user.py:seen"}, "model: user.py:seen is a int; want a function or a class"),
        ({"metrics": ["user.py:mine"]}, "metrics: no attribute of user.py named 'mine'"),
        ({"loss": "user.py:mine"}, "loss: no attribute of user.py named 'mine'"),
    ],
)  # fmt: skip
def test_names_that_lead_nowhere(fails, changes, sentence):
    assert sentence in fails(**changes)


def test_user_file_with_a_syntax_error(fails):
    assert "model: loading user.py failed: SyntaxError" in fails(more="\ndef broken(:\n")


def test_unknown_commands_and_options_exit_with_2():
    assert CliRunner().invoke(app, ["prune"]).exit_code == 2
    assert CliRunner().invoke(app, ["run", "x.yaml", "--lr", "3"]).exit_code == 2
    assert CliRunner().invoke(app, ["run"]).exit_code == 2
