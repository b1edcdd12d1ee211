"""`sparse`: YAML, mappings and lists; every error names the file and the path inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prunus.errors import InputError, RecipeError
from prunus.schedules import AccuracyGuard, OneShot, Policy, StopAtBudget, StopAtSparsity, read_settings, sparse

GOOD = """
version: 1
policies:
  - name: filters
    targets: "*"
    granularity: filter
    criterion: l2
    allocation: uniform
    schedule: {kind: agp, initial: 0.0, final: 0.5, begin: 0ep, end: 2ep, every: 1ep}
    round_to: 2
  - {granularity: element, allocation: {threshold: {"*": 0.01}}, schedule: {kind: one_shot, begin: 5 steps}}
stop: [{sparsity: 0.9}, {macs: 0.33}]
guard: {metric: top1, max_drop: 0.02, reference: 0.9}
"""


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_becomes_objects(tmp_path: Path) -> None:
    settings = read_settings(_write(tmp_path / "schedule.yaml", GOOD))
    assert [policy.name for policy in settings.policies] == ["filters", None]  # type: ignore[union-attr]
    assert settings.stop == (StopAtSparsity(0.9), StopAtBudget("macs=0.33"))
    assert settings.guard == AccuracyGuard("top1", 0.02, reference=0.9)


def test_two_added_lines_prune_a_loop_of_ones_own(tmp_path: Path) -> None:
    model = _model()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    x = torch.randn(12, 6)
    with sparse(model, optimizer, str(_write(tmp_path / "s.yaml", GOOD)), example_inputs=x) as scheduler:
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            scheduler.epoch_end({"top1": 0.9})
    assert {name: int(units.sum()) for name, units in scheduler.pruned_units().items()} == {"0": 4}
    assert int((model[0].weight == 0).all(dim=1).sum()) == 4
    assert int((model[2].weight == 0).all(dim=0).sum()) == 4


def test_folded_constants_keep_what_a_pruned_unit_added() -> None:
    model = _model()
    with torch.no_grad():
        model[0].weight[:4] *= 1e-3  # what is left of these units is their bias
        model[0].bias.fill_(1.0)
    x, before = torch.randn(12, 6), model(torch.zeros(1, 6))
    half = Policy(granularity="filter", criterion="l2", schedule=OneShot(0.5))
    with sparse(model, torch.optim.SGD(model.parameters(), 0.1), [half], example_inputs=x, fold_constants=True):
        assert int((model[2].weight == 0).all(dim=0).sum()) == 4
        torch.testing.assert_close(model(torch.zeros(1, 6)), before)


def test_a_policy_for_statistics_frees_what_they_count() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.RMSNorm(8, eps=1e-3), nn.Linear(8, 4))
    half = Policy(granularity="filter", criterion="l2", schedule=OneShot(0.5))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with sparse(model, optimizer, [half], example_inputs=torch.randn(2, 6), inexact="compensate") as scheduler:
        assert {name: int(units.sum()) for name, units in scheduler.pruned_units().items()} == {"0": 4}


@pytest.mark.parametrize("words", [{"fold_constants": True}, {"inexact": "compensate"}])
def test_what_is_about_units_asks_for_example_inputs(words: dict[str, Any]) -> None:
    model, half = _model(), Policy(granularity="filter", schedule=OneShot(0.5))
    with pytest.raises(InputError, match=f"{next(iter(words))}=.* add example_inputs="):
        sparse(model, torch.optim.SGD(model.parameters(), 0.1), [half], **words)


def test_mappings_lists_and_single_policies_will_do() -> None:
    shot = {"kind": "one_shot", "final": 0.5}
    policy = Policy(granularity="element", schedule=OneShot(0.5))
    for given in ({"policies": [{"granularity": "element", "schedule": shot}]}, [policy], policy):
        model = _model()
        sparse(model, torch.optim.SGD(model.parameters(), 0.1), given)  # type: ignore[arg-type]
        assert int((model[0].weight == 0).sum()) == 24


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("policies:", "polices:", "did you mean policies"),
        ("granularity: filter", "granularity: filer", r"policies\[0\]: granularity: .* did you mean filter"),
        ("criterion: l2", "criterium: l2", r"policies\[0\]: .* did you mean criterion"),
        ("kind: one_shot", "kind: oneshot", r"policies\[1\]: .* did you mean one_shot"),
        ("end: 2ep", "end: 2 weeks", r"policies\[0\]: schedule.end is '2 weeks'"),
        ("final: 0.5", "final: 40", r"policies\[0\]: schedule.final is 40.*did you mean 0.4"),
        ("{macs: 0.33}", "{mac: 0.33}", r"stop\[1\]: .*did you mean macs"),
        ("max_drop: 0.02", "maxdrop: 0.02", r"guard: .*did you mean max_drop"),
        ("max_drop: 0.02", "max_drop: -1", "guard: guard.max_drop is -1"),
        ("version: 1", "version: 2", "version is 2"),
        ("round_to: 2", "round_to: two", r"policies\[0\]: round_to is 'two'"),
    ],
)
def test_every_error_names_file_and_path(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = _write(tmp_path / "schedule.yaml", GOOD.replace(old, new))
    with pytest.raises(RecipeError, match=words) as caught:
        read_settings(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds nothing"),
        ("- a", "holds a list"),
        ("policies: []", "a list with at least one entry"),
        ("policies: filter", "a list with at least one entry"),
        ("policies: [filter]", r"policies\[0\]: policy is 'filter'"),
        ("a: [", "is not YAML"),
        ("a: !!python/object/apply:os.getcwd []", "has the tag"),
    ],
)
def test_junk_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        read_settings(_write(tmp_path / "s.yaml", text))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("missing.yaml", "binary.yaml", "."):
        with pytest.raises(RecipeError) as caught:
            read_settings(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
