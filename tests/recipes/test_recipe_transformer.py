"""What only some models need: statistics that count units, constants that biases take up, kinds of groups."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from prunus.cli.app import app
from prunus.plans import load
from prunus.recipes import open_recipe, preview, run
from prunus.recipes.resolve import resolve
from recipes.tiny_project import policy, write_project

NORMED = """
class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Linear(64, 8), nn.RMSNorm(8)
        self.up, self.down, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 10)

    def forward(self, x):
        x = self.embed(x.flatten(1))
        return self.head(self.norm(x + self.down(torch.relu(self.up(x)))))

def normed():
    return Normed()
"""


def project(folder: Path, **words: object) -> Path:
    folder.mkdir(exist_ok=True)
    prune = {**policy(**words.pop("policy", {})), **words}
    return write_project(folder, more=NORMED, model="user.py:normed", sensitivity=None, fine_tune=None, prune=prune)


def test_a_width_under_rms_norm_is_pruned_where_the_recipe_allows_to_make_up_for_it(tmp_path: Path) -> None:
    whole = run(open_recipe(project(tmp_path / "forbid"))).facts
    assert {g["name"]: (g["kind"], g["kept"]) for g in whole["groups"]} == {"up": ("ffn", 6)}
    facts = run(open_recipe(project(tmp_path / "compensate", inexact="compensate"))).facts
    assert {g["name"]: g["kept"] for g in facts["groups"]} == {"embed": 4, "up": 6}
    assert facts["proof"]["passed"]
    file = tmp_path / "compensate" / "out" / "model.prunus"
    small = load(file, resolve("user.py:normed", [tmp_path / "compensate"]))
    assert small.norm.normalized_shape == (4,)
    assert small(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_dry_run_shows_the_policy_what_it_means_and_what_is_folded(tmp_path: Path) -> None:
    text = preview(open_recipe(project(tmp_path, inexact="compensate", fold_constants=True)))
    assert "inexact: compensate" in text.splitlines()
    assert "embed is compensated: RMSNorm is rescaled" in text.splitlines()
    assert "  up: what its removed units carry is folded into biases" in text.splitlines()
    plain = preview(open_recipe(project(tmp_path)))
    assert "inexact: forbid" in plain.splitlines()
    assert "folded" not in plain


@pytest.mark.parametrize(
    ("more", "found"), [((), ["up"]), (("--targets", "up*"), ["up"]), (("--targets", "embed"), None)]
)
def test_a_kind_of_group_is_analysed_by_its_name(
    tmp_path: Path, more: tuple[str, ...], found: list[str] | None
) -> None:
    words = ("sensitivity", str(project(tmp_path)), "--granularity", "ffn", "--levels", "0.5", *more)
    ran = CliRunner().invoke(app, words)
    if found is None:
        assert ran.exit_code == 2
        assert "ffn" in ran.output
        return
    assert ran.exit_code == 0, ran.output
    cells = [json.loads(line) for line in (tmp_path / "out" / "sensitivity.jsonl").read_text().splitlines()[1:]]
    assert {cell["target"] for cell in cells} == {"", "up"}


def test_policies_choose_groups_by_kind(tmp_path: Path) -> None:
    words = {"policy": {"targets": {"kind": "hidden"}}, "inexact": "compensate"}
    facts = run(open_recipe(project(tmp_path, **words))).facts
    assert {g["name"]: g["kept"] for g in facts["groups"]} == {"embed": 4, "up": 12}


def test_folding_in_a_run_is_kept_by_the_masks_and_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bias of `down` differs from a run without folding right after pruning, when nothing was trained yet."""
    from prunus.recipes import stages

    biases = []
    original = stages.run_epochs

    def before_training(session, stage):
        if stage.name == "prune":
            biases.append(stage.model.down.bias.detach().clone())
            biases.append(stage.model.up.bias.detach().clone())
        return original(session, stage)

    monkeypatch.setattr(stages, "run_epochs", before_training)
    for fold in (False, True):
        facts = run(open_recipe(project(tmp_path / str(fold), fold_constants=fold))).facts
        assert facts["proof"]["passed"]
    plain, up, folded, again = biases
    assert torch.equal(up, again)
    assert int((up == 0).sum()) == 6
    assert float((folded - plain).abs().max().detach()) > 0
