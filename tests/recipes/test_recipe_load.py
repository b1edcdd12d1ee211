"""Reading recipes: every fault is one sentence with file, line, path and the nearest right spelling."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.errors import InputError, RecipeError
from prunus.recipes.load import load_recipe
from prunus.recipes.schema import json_schema
from prunus.yaml_source import parse_source, parse_value

RECIPE = """\
version: 1
model: prunus.zoo:quickstart_net_digits
data: {factory: "prunus.zoo:digits_loaders", args: {batch_size: 64}}
train:
  epochs: 2
  optimizer: {name: adam, lr: 1e-3}
  lr_schedule: one_cycle
prune:
  epochs: 3
  policies:
    - granularity: 2:4
      schedule: {kind: one_shot, begin: 1ep}
    - targets: {type: Linear}
      granularity: filter
      criterion: l2
      schedule: {kind: one_shot, final: 0.5}
  stop:
    - macs: 0.4
out: runs/mine
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="recipe.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize("word", ["pattern(4, 8)", "pattern(4, centre=kept)", "tetris(.x.-xxx-..., xx.-xx.-...)"])
def test_patterns_are_words_of_a_recipe_and_take_no_final(write, word):
    recipe = load_recipe(write(RECIPE.replace("2:4", word)))
    assert recipe.prune.policies[0].granularity == word
    with pytest.raises(RecipeError, match="leave final out"):
        load_recipe(write(RECIPE.replace("2:4", word).replace("begin: 1ep", "final: 0.5")))


def test_a_recipe_gets_its_defaults(write):
    recipe = load_recipe(write(RECIPE))
    assert recipe.model.factory == "prunus.zoo:quickstart_net_digits"
    assert recipe.data.args == {"batch_size": 64}
    assert recipe.train.optimizer.name == "adam"
    assert recipe.train.optimizer.arguments == {"lr": 0.001}
    assert recipe.prune.policies[0].granularity == "2:4"
    assert recipe.prune.policies[1].criterion == "l2"
    assert recipe.metrics == ["top1", "top5"]
    assert recipe.finish.thin
    assert recipe.fine_tune is None
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3


def changed(old, new):
    assert old in RECIPE
    return RECIPE.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("epochs: 2", "epoch: 2", "recipe.yaml:5: train.epoch: there is no such key; did you mean epochs?"),
        ("out: runs", "output: runs", "recipe.yaml:19: output: there is no such key; did you mean out?"),
        ("epochs: 2", "epochs: two", "recipe.yaml:5: train.epochs: got 'two'; want a whole number"),
        ("epochs: 2", "epochs: 2.5", "recipe.yaml:5: train.epochs: got 2.5; want a whole number"),
        ("epochs: 2", "epochs: -1", "recipe.yaml:5: train.epochs: got -1; want greater than or equal to 0"),
        ("name: adam", "name: adm", "recipe.yaml:6: train.optimizer: .*no optimizer named 'adm'; did you mean adam"),
        ("lr: 1e-3", "lr: [1]", "recipe.yaml:6: train.optimizer: .*lr of Adam is \\[1\\]; want a number"),
        ("lr: 1e-3", "lrs: 1", "recipe.yaml:6: train.optimizer: .*no argument of Adam named 'lrs'; did you mean lr?"),
        ("one_cycle", "onecycle", "recipe.yaml:7: train.lr_schedule: .*did you mean one_cycle"),
        ("granularity: filter", "granularity: filtr", "recipe.yaml:14: prune.policies\\[1\\].granularity: .*filter?"),
        ("granularity: filter", "granularty: filter", "recipe.yaml:14: .*granularty: there is no such key"),
        ("criterion: l2", "criterion: 2", "recipe.yaml:15: .*criterion: got 2; want a criterion, such as l2"),
        ("macs: 0.4", "mac: 0.4", "recipe.yaml:18: prune.stop.*did you mean macs"),
        ("macs: 0.4", "macs: -1", "recipe.yaml:18: prune.stop\\[0\\]: got .*-1"),
        ("{type: Linear}", "{typ: Linear}", "targets: .*no key of targets named 'typ'; did you mean type"),
        ("{type: Linear}", "7", "recipe.yaml:13: .*targets: got 7; want a pattern"),
        ("{type: Linear}", "{kin: ffn}", "targets: .*no key of targets named 'kin'; did you mean kind"),
        ("{type: Linear}", "{kind: 7}", "targets: .*kind is 7; a pattern"),
        ("prune:", "prune:\n  inexact: compensated", "prune.inexact: .*'compensated'; did you mean compensate"),
        ("prune:", "prune:\n  inexact: true", "prune.inexact: got True; want forbid, compensate or allow"),
        ("prune:", "prune:\n  fold_constants: 1", "prune.fold_constants: got 1; want true or false"),
        ("prune:", "prune:\n  fold_constant: true", "fold_constant: there is no such key; did you mean fold_constants"),
        ("- granularity: 2:4", "- granularity: 2:4\n      targets: {kind: head}", "targets: .*only filter and channel"),
        ("out: runs/mine", "out: ''", "recipe.yaml:19: out: got ''; "),
        ("model: prunus.zoo:quickstart_net_digits", "model: zoo", "yaml:2: model.factory: got 'zoo'; .*no module"),
        ("model: prunus.zoo:quickstart_net_digits", "model: 4", "recipe.yaml:2: model: got 4; want module:function"),
        ("model: prunus.zoo:quickstart_net_digits", "loss: mse_loss", "yaml:1: `model` is missing; write it, such"),
        ("out: runs/mine", "", "`out` is missing; write it, such as `out: runs/mine`"),
        ("out: runs/mine", "out: x\nloss: crossentropy", "recipe.yaml:20: loss: .*did you mean cross_entropy?"),
        ("out: runs/mine", "out: x\nmetrics: [top3]", "recipe.yaml:20: metrics\\[0\\]: .*did you mean top5 or top1?"),
        ("out: runs/mine", "out: x\nmetrics: []", "recipe.yaml:20: metrics: got \\[\\]; want at least one"),
        ("out: runs/mine", "out: x\ndevice: tpu9", "device: got 'tpu9'; torch cannot use this device here"),
        ("out: runs/mine", "out: x\nfinish: {export: tflite}", "finish.export: got 'tflite'; want 'onnx'"),
        ("out: runs/mine", "out: x\nfinish: {thin: yes}", "finish.thin: got 'yes'; want true or false"),
        ("out: runs/mine", "out: x\nfinish: {save: ../m}", "finish.save: got '../m'; want a plain file name"),
        ("out: runs/mine", "out: x\nseed: true", "recipe.yaml:20: seed: got True; want a whole number"),
        ("out: runs/mine", "out: x\nsensitivity: {levels: [1.0]}", "sensitivity.levels\\[0\\]: got 1.0; level is 1.0"),
        ("out: runs/mine", "out: x\nsensitivity: {levels: [-0.1]}", "levels\\[0\\]: got -0.1; level is -0.1"),
        ("out: runs/mine", 'out: x\nsensitivity: {levels: ["40"]}', "got '40'; .*did you mean 0.4"),
        ("version: 1", "version: 2\nplanet: mars", "yaml:1: version: got 2; .*newer Prunus, .* reads version 1"),
        ("version: 1\nmodel:", "planet: mars\nversion: 2\nmodel:", "yaml:2: version: got 2; .*newer Prunus"),
        ("version: 1", "version: one", "recipe.yaml:1: version: got 'one'; want `version: 1`"),
        ("version: 1\n", "", "has no `version`; a recipe begins with `version: 1`"),
    ],
)  # fmt: skip
def test_every_fault_says_where_and_what_is_wanted(write, old, new, sentence):
    with pytest.raises(RecipeError, match=sentence) as caught:
        load_recipe(write(changed(old, new)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds nothing; want a mapping"),
        ("hello", "holds a single value; want a mapping"),
        ("- a\n- b", "holds a list; want a mapping"),
        ("version: 1\nversion: 1", "recipe.yaml:2: version comes twice, first in line 1; keep one"),
        ("version: 1\ntrain: {epochs: 1, epochs: 2}", "recipe.yaml:2: train.epochs comes twice"),
        ("version: [1", "recipe.yaml:1: this is not YAML"),
        ("version: 1\n\tx: 1", "recipe.yaml:2: this is not YAML"),
        (b"\x00\x01\x02\xff\xfe", "is not a text file: byte 3 is not UTF-8"),
        (b"\x00\x01", "this is not YAML"),
        ("a: !!python/object/apply:os.system [echo]", "has the tag tag:yaml.org,2002:python/object/apply:os.system"),
        ("a: !!python/name:os.system", "this is not YAML: could not determine a constructor"),
        ("a: &a [*a]", "nested too deeply"),
        ("? [a, b]\n: 1", "a key is a sequence; want a word"),
        ("x" * 1_000_001, "a recipe has at most 1000000"),
    ],
)
def test_files_that_are_no_recipes(write, text, sentence):
    with pytest.raises(RecipeError, match=sentence):
        load_recipe(write(text))


def test_aliases_cannot_multiply_without_end():
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(RecipeError, match="aliases multiply them"):
        parse_source("\n".join(rows), "bomb.yaml")


def test_missing_files_and_folders(tmp_path, write):
    write("", "other.yaml")
    with pytest.raises(RecipeError, match=r"no recipe file .*absent.yaml; there is other.yaml"):
        load_recipe(tmp_path / "absent.yaml")
    with pytest.raises(RecipeError, match="is a folder; want a recipe file"):
        load_recipe(tmp_path)


@given(content=st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
@settings(max_examples=150)
def test_junk_is_always_one_sentence(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("junk") / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError):
        load_recipe(path)


def test_scalars_are_read_as_people_mean_them():
    assert [parse_value(text, "v") for text in ("2:4", "1e-3", "5", "-.5", "no", "2024-01-01", "true", "~", "010")] == [
        "2:4", 0.001, 5, -0.5, "no", "2024-01-01", True, None, "010",
    ]  # fmt: skip
    assert yaml.safe_load("2:4") == 124  # why: YAML 1.1 counts seconds


def test_merge_keys_share_a_policy():
    values = parse_source("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: *a", "v").values
    assert values == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": {"x": 1, "y": 2}}


@pytest.mark.parametrize(
    ("setting", "read"),
    [
        ("train.epochs=7", lambda r: r.train.epochs == 7),
        ("train.optimizer.lr=1e-4", lambda r: r.train.optimizer.arguments == {"lr": 1e-4}),
        ("prune.policies[1].criterion=l1", lambda r: r.prune.policies[1].criterion == "l1"),
        ("prune.policies.1.criterion=l1", lambda r: r.prune.policies[1].criterion == "l1"),
        ("prune.policies[0].granularity=1:4", lambda r: r.prune.policies[0].granularity == "1:4"),
        ("fine_tune.epochs=2", lambda r: r.fine_tune.epochs == 2),
        ("metrics=[top5]", lambda r: r.metrics == ["top5"]),
        ("name=a=b", lambda r: r.name == "a=b"),
        ("sensitivity=", lambda r: r.sensitivity is None),
    ],
)
def test_overrides(write, setting, read):
    assert read(load_recipe(write(RECIPE), [setting]))


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("trian.epochs=3", "with --set trian.epochs=3: trian: there is no such key; did you mean train?"),
        ("train.epochs=x", "with --set train.epochs=x: train.epochs: got 'x'; want a whole number"),
        ("prune.policies[2].criterion=l1", r"prune.policies is a list of 2; want an index below it, got 2"),
        ("prune.policies.first=l1", "prune.policies is a list of 2"),
        ("version.x=1", "version is 1, which has no parts"),
        ("train.epochs", "want path=value"),
        ("=3", "want path=value"),
        ("name=[", "this is not YAML"),
    ],
)
def test_wrong_overrides_are_named(write, setting, sentence):
    with pytest.raises(RecipeError, match=sentence):
        load_recipe(write(RECIPE), [setting])


def test_a_fault_in_the_file_keeps_its_line_beside_an_override(write):
    with pytest.raises(RecipeError, match=r"recipe.yaml:5: train.epoch: there is no such key"):
        load_recipe(write(changed("epochs: 2", "epoch: 2")), ["seed=3"])


@pytest.mark.parametrize("line", ["fold_constants: true", "inexact: allow"])
def test_words_about_units_need_a_policy_that_removes_some(write, line):
    text = RECIPE.replace("granularity: filter", "granularity: element").replace("prune:", f"prune:\n  {line}")
    with pytest.raises(RecipeError, match=f"prune: .*`{line}` is about filters and channels, but the policies prune"):
        load_recipe(write(text))


def test_the_schema_knows_every_key():
    schema = json_schema()
    assert schema["title"] == "Prunus recipe"
    assert set(schema["required"]) == {"version", "model", "data", "prune", "out"}
    assert not schema["additionalProperties"]
    assert schema["$defs"]["Prune"]["properties"]["inexact"]["enum"] == ["forbid", "compensate", "allow"]
    assert schema["$defs"]["Prune"]["properties"]["fold_constants"]["type"] == "boolean"
    assert set(schema["$defs"]["Policy"]["properties"]) == {
        "name", "targets", "granularity", "criterion", "allocation", "schedule", "solver", "round_to", "max_ratio",
        "target",
    }  # fmt: skip


def test_plain_values_are_a_recipe_again(write, tmp_path):
    recipe = load_recipe(write(RECIPE))
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(recipe.plain()))
    assert load_recipe(again) == recipe
    assert Path(again).exists()
