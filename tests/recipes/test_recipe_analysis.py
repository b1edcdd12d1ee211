"""The analysis of a recipe: what it leaves, that it trains and resumes as the run does, that its schedule runs."""

import json
import os
import signal
import subprocess
import sys

import pytest
import yaml

from prunus.errors import InputError, RecipeError
from prunus.recipes import Effort, analyse, open_recipe, run
from prunus.recipes.folder import open_folder
from prunus.recipes.schema import Sensitivity
from prunus.sensitivity import Curves
from recipes.tiny_project import OWN_CLASS, policy, write_project

FILES = {
    *("sensitivity.jsonl", "sensitivity.json", "sensitivity.csv", "sensitivity.svg", "sensitivity.slopes.svg"),
    *("sensitivity.heat.svg", "sensitivity.html", "schedule.yaml"),
}
PART = {"levels": [0.25, 0.5, 0.75], "granularity": "filter", "max_drop": 0.05}


def project(folder, **changes):
    return write_project(folder, **{"sensitivity": PART, "fine_tune": None, "prune": policy(round_to=2), **changes})


def test_everything_is_left_and_the_schedule_runs_to_what_was_foretold(tmp_path):
    found = analyse(open_recipe(project(tmp_path)))
    assert {path.name for path in found.files.values()} == FILES
    assert all((tmp_path / "out" / name).stat().st_size for name in FILES)
    assert found.notes == ()
    assert Curves.from_dict(json.loads((tmp_path / "out" / "sensitivity.json").read_text())) == found.curves
    assert any(found.ratios.values())
    schedule = tmp_path / "out" / "schedule.yaml"
    text = schedule.read_text()
    opened = open_recipe(schedule)
    (words,) = opened.recipe.prune.policies
    assert words.allocation == {"per_layer": {name: ratio for name, ratio in found.ratios.items() if ratio}}
    assert words.round_to == 2
    assert opened.recipe.sensitivity is None
    assert yaml.safe_load(text)["model"] == "../user.py:net"
    facts = run(opened).facts
    counts = found.curves.costs.counts(found.ratios, round_to=2)
    assert {group["name"]: group["size"] - group["kept"] for group in facts["groups"]} == counts
    assert facts["pruned"]["macs"] == found.left.macs
    assert facts["pruned"]["parameters"] == found.left.params
    assert facts["dense"]["metrics"]["validation"]["top1"] == found.curves.dense["top1"], "trained as in the analysis"


PHONE = """\
layer,in,out,ms
*,,,1
0,1,1,1
0,1,8,8
3,1,1,2
3,1,8,9
3,8,1,9
3,8,8,16
9,1,10,1
9,8,10,1
"""


def test_a_latency_is_estimated_for_the_page_and_met_by_the_schedule(tmp_path):
    """1 ms, one per channel of the first convolution, one per channel in and out of the second, and 1 for the head."""
    (tmp_path / "phone.csv").write_text(PHONE)
    on = f"table:{tmp_path / 'phone.csv'}"
    part = {"levels": [0.25, 0.5, 0.75], "granularity": "filter", "target": f"latency=0.6@{on}"}
    found = analyse(open_recipe(project(tmp_path, sensitivity=part, prune=policy())))
    assert found.dense.latency == 26
    first, second = (found.curves.costs.counts(found.ratios)[name] for name in ("0", "3"))
    assert found.left.latency == 26 - 2 * first - second <= 15.6
    assert '"checked": null' in (tmp_path / "out" / "sensitivity.html").read_text()
    (words,) = open_recipe(tmp_path / "out" / "schedule.yaml").recipe.prune.policies
    assert words.round_to == "auto"


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"target": "latency=0.9@torch", "latency": "onnxruntime"}, "name the same device"),
        ({"latency": "torch", "granularity": "element"}, "do not become speed"),
        ({"latency": "tensorrt"}, "no device named 'tensorrt'"),
        ({"latency": 3}, "a device, such as onnxruntime"),
    ],
)
def test_a_latency_that_cannot_be_is_refused_before_anything_runs(tmp_path, part, words):
    with pytest.raises(RecipeError, match=words):
        open_recipe(project(tmp_path, sensitivity={"granularity": "filter", **part}))


def test_the_run_uses_what_the_analysis_trained_and_measured_and_the_reverse(tmp_path):
    recipe = project(tmp_path)
    found = analyse(open_recipe(recipe))
    cells = (tmp_path / "out" / "sensitivity.jsonl").read_bytes()
    log = (tmp_path / "out" / "log.jsonl").read_text()
    facts = run(open_recipe(recipe)).facts
    assert (tmp_path / "out" / "sensitivity.jsonl").read_bytes() == cells
    assert (tmp_path / "out" / "log.jsonl").read_text().startswith(log)
    assert facts["sensitivity"]["dense"] == found.curves.dense["top1"]
    assert facts["artifacts"]["sensitivity"] == "sensitivity.html"
    again = analyse(open_recipe(recipe))
    assert again.curves == found.curves
    assert (tmp_path / "out" / "sensitivity.jsonl").read_bytes() == cells


def test_a_killed_analysis_goes_on_to_the_same_curves(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = analyse(open_recipe(project(tmp_path / "whole")))
    recipe = project(tmp_path / "killed")
    code = f"from prunus.recipes import analyse, open_recipe; analyse(open_recipe({str(recipe)!r}))"
    environment = {**os.environ, "TINY_KILL": "9"}
    killed = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert 0 < (tmp_path / "killed" / "out" / "log.jsonl").read_text().count("\n") < 3
    assert analyse(open_recipe(recipe)).curves == whole.curves


def test_another_granularity_has_files_of_its_own(tmp_path):
    recipe = project(tmp_path)
    analyse(open_recipe(recipe))
    first = (tmp_path / "out" / "sensitivity.json").read_bytes()
    wanted = Sensitivity(levels=[0.5, 0.9], granularity="element", criterion="l1", target="sparsity=0.6")
    found = analyse(open_recipe(recipe), wanted)
    assert found.files["page"].name == "sensitivity-element-l1.html"
    assert found.files["schedule"].name == "schedule-element-l1.yaml"
    assert (tmp_path / "out" / "sensitivity.json").read_bytes() == first
    assert found.curves.costs.sparsity(found.curves.costs.counts(found.ratios)) == pytest.approx(0.6, abs=0.01)
    assert found.left.macs == found.dense.macs
    assert found.left.nnz < found.dense.nnz


def test_a_budget_is_met_by_the_schedule(tmp_path):
    found = analyse(open_recipe(project(tmp_path, sensitivity={**PART, "max_drop": None, "target": "macs=0.5"})))
    assert found.left.macs <= 0.5 * found.dense.macs


def test_n_m_leaves_curves_and_says_why_there_is_no_schedule(tmp_path):
    recipe = project(tmp_path)
    found = analyse(open_recipe(recipe), Sensitivity(granularity="2:4", targets="9"))
    assert "page" not in found.files
    assert "schedule" not in found.files
    assert any("no schedule: 2:4 is whole or not at all" in note for note in found.notes)
    assert found.ratios == {}


def test_no_drop_at_all_leaves_everything_but_a_schedule(tmp_path):
    found = analyse(open_recipe(project(tmp_path, sensitivity={**PART, "levels": [0.99], "max_drop": 0.0})))
    if any(found.ratios.values()):
        pytest.skip("this net loses nothing at 99 %")
    assert any("every ratio is 0" in note for note in found.notes)
    assert "schedule" not in found.files


def test_fresh_begins_anew(tmp_path):
    recipe = project(tmp_path)
    analyse(open_recipe(recipe))
    changed = open_recipe(recipe, ["train.epochs=1"])
    with pytest.raises(InputError, match=r"train\.epochs is 3 there and 1 here"):
        analyse(changed)
    assert analyse(changed, fresh=True).curves.levels == (0.25, 0.5, 0.75)
    assert open_folder(tmp_path / "out", changed.recipe.plain()).earlier is not None


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ({"max_drop": 0.1, "target": "macs=0.5"}, "give either max_drop or target"),
        ({"max_drop": -0.1}, "sensitivity.max_drop: got -0.1; want"),
        ({"target": "speed=2"}, "no budget named 'speed'"),
    ],
)
def test_what_a_schedule_is_to_meet_is_checked(tmp_path, part, sentence):
    with pytest.raises(InputError, match=sentence):
        open_recipe(write_project(tmp_path, sensitivity=part))


def test_parts_and_workers_fill_one_store_to_the_same_curves(tmp_path):
    for name in ("whole", "shared"):
        (tmp_path / name).mkdir()
    whole, recipe = (project(tmp_path / n, more=OWN_CLASS, model="user.py:Net") for n in ("whole", "shared"))
    whole = analyse(open_recipe(whole))
    first = analyse(open_recipe(recipe), effort=Effort(part="1/2"))
    assert set(first.files) == {"cells"}
    assert "part 1/2 is measured" in first.notes[0]
    analyse(open_recipe(recipe), effort=Effort(part="2/2", workers=2))
    cells = (tmp_path / "shared" / "out" / "sensitivity.jsonl").read_bytes()
    both = analyse(open_recipe(recipe))
    assert (tmp_path / "shared" / "out" / "sensitivity.jsonl").read_bytes() == cells, "nothing was left to measure"
    assert both.curves == whole.curves
    with pytest.raises(InputError, match="which of how many"):
        analyse(open_recipe(recipe), effort=Effort(part="3/2"))


SMALL_BATCHES = """
def small_batches():
    found = data()
    found["validation"] = zoo.TensorLoader(found["validation"].dataset, batch_size=8)
    return found
"""


def test_cells_that_stop_early_are_marked(tmp_path):
    recipe = project(tmp_path, more=SMALL_BATCHES, data="user.py:small_batches")
    found = analyse(open_recipe(recipe), effort=Effort(approximate=0.4))
    assert found.curves.approximate
    assert "≈" in str(found.curves)
    assert Curves.from_dict(json.loads(found.files["curves"].read_text())) == found.curves
