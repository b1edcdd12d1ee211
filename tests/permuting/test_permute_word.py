"""`2:4(permute=yes)`: one word in `prune` and recipes for what `permuted` does before; elsewhere a sentence."""

import pytest
import torch
from torch import nn

import prunus
from prunus.errors import InputError, RecipeError
from prunus.granularity import NM, granularity, unpermuted
from prunus.permuting import permuted
from prunus.recipes import load_recipe, open_recipe, run
from recipes.test_recipe_run import assert_same_run
from recipes.tiny_project import interrupted_and_resumed, write_project

WORD = "2:4(permute=yes)"


def chain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def test_the_word_reads_back_and_comes_off():
    assert granularity(WORD) == NM(2, 4, permute=True)
    assert granularity(WORD).name == WORD
    assert granularity("1:4( permute = no )") == NM(1, 4)
    assert (unpermuted(WORD), unpermuted("2:4"), unpermuted("filter")) == ("2:4", "2:4", "filter")
    with pytest.raises(InputError, match=r"write n:m, such as 2:4, or 2:4\(permute=yes\)"):
        granularity("2:4(permute=maybe)")


@pytest.mark.parametrize("options", [{}, {"criterion": "wanda"}, {"solver": "lstsq"}, {"solver": "alps"}])
def test_prune_permutes_first_and_then_does_what_it_does(options):
    model, x = chain(), torch.randn(32, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = [x] if options else None
    rank = "solver" if options.get("solver") == "alps" else options.get("criterion", "l1")
    settings = {**options, "criterion": rank, "data": data, "measure_latency": False}
    found, report = prunus.prune(model, x, granularity=WORD, **settings)
    better, by_hand = permuted(prunus.trace(model, x), "2:4", criterion="l1" if rank == "solver" else rank, data=data)
    expected, plain = prunus.prune(better, x, granularity="2:4", **settings)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
    assert plain.permutation is None
    assert report.permutation.kept == by_hand.kept
    assert "permuted: the inputs of 2 of 3 weights reordered, +" in str(report)


def test_what_protect_names_keeps_its_order_and_its_weights():
    model, x = chain(), torch.randn(32, 8)
    found, report = prunus.prune(model, x, granularity=WORD, criterion="l1", protect="2", measure_latency=False)
    assert "2.weight" not in report.permutation.kept
    assert not (found[2].weight == 0).any()


@pytest.mark.parametrize("spec", [WORD, NM(2, 4, permute=True)])
def test_where_nothing_may_be_reordered_the_word_is_refused(spec):
    model, x = chain(), torch.randn(4, 8)
    with pytest.raises(InputError, match=r"0\.weight: 2:4\(permute=yes\) puts channels in order first.*permuted"):
        prunus.plan(prunus.trace(model, x), granularity=spec)
    chosen = prunus.Policy(granularity=spec, schedule={"kind": "one_shot"})
    with pytest.raises(InputError, match="puts channels in order first"):
        prunus.PruningScheduler(model, torch.optim.SGD(model.parameters(), lr=0.1), [chosen])


def project(folder, word=WORD):
    words = {"granularity": word, "targets": "3.weight", "criterion": "wanda", "schedule": {"kind": "one_shot"}}
    return write_project(folder, prune={"epochs": 2, "policies": [words]}, sensitivity=None)


def test_a_recipe_permutes_after_training_and_goes_on_after_an_interruption(tmp_path):
    whole, resumed, plain = (tmp_path / name for name in ("whole", "resumed", "plain"))
    for folder in (whole, resumed, plain):
        folder.mkdir()
    facts = run(open_recipe(project(whole))).facts
    assert_same_run(resumed / "out", interrupted_and_resumed(project(resumed), 17), (whole / "out", facts))
    weight = prunus.load(whole / "out" / "model.prunus", factory(whole))[3].weight
    lines = weight.movedim(1, -1).reshape(-1, 2, 4)
    assert bool(((lines != 0).sum(-1) == 2).all())
    run(open_recipe(project(plain, "2:4")))
    other = prunus.load(plain / "out" / "model.prunus", factory(plain))[3].weight
    assert not torch.equal(weight, other)


def factory(folder):
    names = {}
    exec((folder / "user.py").read_text(), names)
    return names["net"]


def test_two_policies_that_put_channels_in_order_are_refused(tmp_path):
    words = {"granularity": WORD, "schedule": {"kind": "one_shot"}}
    policies = [{**words, "name": name, "targets": name} for name in ("0.weight", "3.weight")]
    with pytest.raises(RecipeError, match=r"2 policies put channels in order.*let one of them do so"):
        load_recipe(write_project(tmp_path, prune={"policies": policies}))
