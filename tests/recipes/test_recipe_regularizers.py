"""Regularizers in a recipe: in the loss, in the log, on the console, over a kill, and in errors."""

import json

import pytest
import torch

from prunus.errors import InputError, RecipeError
from prunus.recipes import open_recipe, preview, run
from prunus.recipes.load import load_recipe
from prunus.report import validate
from prunus.training import load_checkpoint
from recipes.tiny_project import interrupted_and_resumed, policy, write_project

TRAIN = {"epochs": 2, "optimizer": {"name": "adam", "lr": 0.01}}
TERMS = ["bn_l1(0.01)", {"kind": "group_lasso", "strength": 0.001, "name": "rows", "targets": "0.weight"}]


def project(folder, train=None, prune=None, **changes):
    return write_project(
        folder,
        train={**TRAIN, "regularizers": TERMS, **(train or {})},
        prune={**policy(), "regularizers": ["growing_l2(1e-3, every=1)"], **(prune or {})},
        sensitivity=None,
        fine_tune={"epochs": 1},
        **changes,
    )


class Said:
    """A reporter that remembers."""

    def __init__(self):
        from prunus.training import Silent

        self.lines, self.bar = [], Silent().bar

    def say(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder, said = tmp_path_factory.mktemp("whole"), Said()
    result = run(open_recipe(project(folder)), reporter=said)
    return folder / "out", result.facts, said.lines


def test_every_term_is_logged_by_its_name(whole):
    out, facts, said = whole
    validate(facts)
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [list(row["terms"]) for row in rows] == [["bn_l1", "rows"], ["bn_l1", "rows"], ["growing_l2"], []]
    assert [row["terms"] for row in facts["history"]] == [row["terms"] for row in rows]
    assert all(value > 0 for row in rows[:2] for value in row["terms"].values())
    assert rows[2]["terms"]["growing_l2"] == 0.0  # the policy prunes first, and zeros weigh nothing
    line = next(text for text in said if text.startswith("train 1/2"))
    assert f", bn_l1 {rows[0]['terms']['bn_l1']:.4g}, rows {rows[0]['terms']['rows']:.4g}, top1" in line


def test_the_logged_loss_is_the_task_alone(tmp_path, whole):
    """Without strength the terms are logged as 0, and training is that of a recipe without any."""
    runs = []
    for name, terms in (("zero", ["bn_l1(0)"]), ("none", [])):
        (tmp_path / name).mkdir()
        recipe = project(tmp_path / name, train={"regularizers": terms}, prune={"regularizers": []})
        runs.append(run(open_recipe(recipe)).facts["history"])
    assert [row["loss"] for row in runs[0]] == [row["loss"] for row in runs[1]]
    assert runs[0][0]["terms"] == {"bn_l1": 0.0}
    assert [row["loss"] for row in runs[0]] != [row["loss"] for row in whole[1]["history"]]


@pytest.mark.parametrize("batch", [4, 8, 11, 15])
def test_interrupted_anywhere_the_resumed_run_is_the_same(tmp_path, whole, batch):
    interrupted_and_resumed(project(tmp_path), batch)
    for stage in ("train", "prune", "fine_tune"):
        ours, theirs = (load_checkpoint(p / "state" / f"{stage}.safetensors") for p in (tmp_path / "out", whole[0]))
        assert all(torch.equal(ours["model"][name], tensor) for name, tensor in theirs["model"].items())
        assert json.dumps([e["terms"] for e in ours["entries"]]) == json.dumps([e["terms"] for e in theirs["entries"]])


def test_a_growing_strength_goes_on_over_an_interruption_between_epochs(tmp_path):
    """4 batches make an epoch; the second pruning epoch must begin with λ of step 4 and the units chosen at first."""
    recipes = []
    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
        recipes.append(project(tmp_path / name, prune={"epochs": 3, "policies": [late()]}))
    facts = run(open_recipe(recipes[0])).facts, interrupted_and_resumed(recipes[1], 1 + 8 + 4 + 2)
    whole, resumed = ([row["terms"] for row in each["history"]] for each in facts)
    assert whole == resumed
    assert whole[3]["growing_l2"] > whole[2]["growing_l2"]


def late():
    return {"granularity": "filter", "schedule": {"kind": "one_shot", "final": 0.5, "begin": "2ep"}}


def test_a_threshold_sets_small_units_to_zero_at_the_end_of_every_epoch(tmp_path):
    terms = [{"kind": "l1", "strength": 0.0, "threshold": 0.05}]
    facts = run(open_recipe(project(tmp_path, train={"regularizers": terms}))).facts
    assert all(row["sparsity"] > 0.05 for row in facts["history"][:2])


def test_with_coupled_groups_the_train_stage_knows_the_structure(tmp_path):
    recipe = project(tmp_path, train={"regularizers": [{"kind": "group_lasso", "strength": 0.01, "threshold": 10.0}]})
    run(open_recipe(recipe))
    model = load_checkpoint(tmp_path / "out" / "state" / "train.safetensors")["model"]
    assert not model["1.bias"].any()  # the batch norm belongs to the filter; a weight alone would leave it


def test_a_dry_run_names_terms_and_targets(tmp_path):
    text = preview(open_recipe(project(tmp_path)))
    assert "train adds BnL1(strength=0.01" in text
    assert "over 2 targets" in text
    assert "prune adds GrowingL2(" in text


@pytest.mark.parametrize(
    ("terms", "match"),
    [
        (["bn_l2(0.1)"], r"train\.regularizers\[0\]: got 'bn_l2\(0\.1\)'; no regularizer named 'bn_l2'; did you mean"),
        ([{"strength": 1}], r"has no `kind`"),
        ([{"kind": "l1", "strength": -1}], r"strength is -1"),
        ([3], r"want group_lasso\(1e-4\), or a mapping"),
        (["l1(1)", "l1(2)"], r"two regularizers are named l1; give each its own `name`"),
        ([{"kind": "l1", "strength": 1, "targets": {"kind": "ffn"}}], r"only filter and channel prune groups"),
    ],
)
def test_a_wrong_word_is_named_with_its_place(tmp_path, terms, match):
    with pytest.raises(RecipeError, match=match):
        load_recipe(project(tmp_path, train={"regularizers": terms}))


def test_a_pattern_that_matches_nothing_fails_before_training(tmp_path):
    recipe = project(tmp_path, train={"regularizers": [{"kind": "l1", "strength": 1, "targets": "fc*"}]})
    with pytest.raises(InputError, match=r"train\.regularizers: regularizer l1: no weight"):
        run(open_recipe(recipe))
    assert not (tmp_path / "out" / "log.jsonl").exists()


def test_fine_tuning_takes_no_regularizers(tmp_path):
    recipe = write_project(tmp_path, fine_tune={"epochs": 1, "regularizers": ["l1(1)"]})
    with pytest.raises(RecipeError, match="there is no such key"):
        load_recipe(recipe)
