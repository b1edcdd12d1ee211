"""The written report: complete, escaped, self-contained, all or nothing."""

import json
import re
import sys
from html.parser import HTMLParser

import pytest
from rich.console import Console

from prunus.errors import FileError, InputError, PrunusError
from prunus.report import complete, print_table, table_markdown, write_report
from report.report_facts import minimal, realistic

VOID = {"meta", "line", "rect", "path", "polyline", "br", "link", "img"}


class Tags(HTMLParser):
    """Checks that every tag is closed in order; collects tags, attributes and text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.seen, self.attributes, self.texts = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def page_of(facts, folder):
    return write_report(facts, folder).read_text(encoding="utf-8")


@pytest.mark.parametrize("facts", [realistic(), minimal()], ids=["realistic", "minimal"])
def test_json_holds_the_completed_facts_in_a_stable_order(facts, tmp_path):
    write_report(facts, tmp_path)
    first = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads(first) == complete(facts)
    write_report(dict(reversed(json.loads(first).items())), tmp_path)
    assert (tmp_path / "report.json").read_text(encoding="utf-8") == first


@pytest.mark.parametrize("facts", [realistic(), minimal()], ids=["realistic", "minimal"])
def test_page_is_whole_and_needs_nothing_from_outside(facts, tmp_path):
    tags = Tags(page_of(facts, tmp_path))
    assert "script" not in tags.seen
    assert not {"link", "img", "iframe", "object"} & set(tags.seen)
    outside = [value for name, value in tags.attributes if name in {"src", "href", "srcset"}]
    assert outside == []
    page = page_of(facts, tmp_path)
    assert not re.search(r"url\(|@import|https?://", page)


def test_a_page_beside_the_report_is_linked_and_no_other_file(tmp_path):
    facts = realistic()
    facts["artifacts"] = {**facts["artifacts"], "sensitivity": "sensitivity.html"}
    tags = Tags(page_of(facts, tmp_path))
    assert [value for name, value in tags.attributes if name == "href"] == ["sensitivity.html"]


def test_realistic_page_shows_every_part(tmp_path):
    tags = Tags(page_of(realistic(), tmp_path))
    text = " ".join(tags.texts)
    for heading in (
        "Before and after",
        "Proof",
        "The run, epoch by epoch",
        "What was kept",
        "Sensitivity",
        "Frozen axes",
        "What counts",
        "Environment",
        "Recipe",
        "Files",
    ):
        assert heading in text
    assert tags.seen.count("svg") == 4
    assert "8 of 16" in text
    assert "an output of the model" in text
    assert "3.57×" in text
    assert "640 pJ" in text


def test_minimal_page_leaves_out_what_is_not_there(tmp_path):
    tags = Tags(page_of(minimal(), tmp_path))
    text = " ".join(tags.texts)
    for heading in (
        "Sensitivity",
        "Frozen axes",
        "Recipe",
        "What was kept",
        "Test split",
        "The run, epoch by epoch",
    ):
        assert heading not in text
    assert "svg" not in tags.seen


def test_names_from_outside_cannot_become_markup(tmp_path):
    evil = "<script>alert('x')</script>&\"x"
    facts = realistic()
    facts |= {"name": evil, "seeds": [1], "environment": {evil: evil}, "artifacts": {evil: evil}}
    facts["model"] = {"name": evil}
    facts["data"]["name"] = evil
    facts["recipe"]["model"] = evil
    facts["groups"][0] |= {"name": evil, "kind": evil}
    facts["masks"] = [{"name": evil, "shape": [2, 3], "sparsity": 0.5}]
    facts["frozen"][0] |= {"name": evil, "reason": evil}
    facts["sensitivity"]["curves"][evil] = [0.1] * 5
    facts["sensitivity"]["metric"] = evil
    for model in ("dense", "pruned"):
        facts[model]["metrics"]["validation"][evil] = 1.0
        facts[model]["latency"]["runtime"] = evil
    facts["recipe"]["metrics"] = [evil]
    facts["history"][0]["validation"][evil] = 1.0
    page = page_of(facts, tmp_path)
    tags = Tags(page)
    assert "script" not in tags.seen
    assert "<script" not in page
    assert evil in tags.texts


def test_terminal_table_prints_user_names_as_they_are():
    facts = minimal() | {"name": "[bold red]loud[/]"}
    console = Console(record=True, width=100)
    print_table(facts, console)
    text = console.export_text()
    assert "[bold red]loud[/]" in text
    assert "10.0×" in text
    assert "88.00 %" in text


def test_markdown_table_has_a_row_per_quantity_and_escapes_names():
    facts = realistic()
    facts["data"]["name"] = "a|b <i>"
    text = table_markdown(facts)
    assert "| MACs | 9.15 M | 2.56 M | 3.57× |" in text
    assert "| top1 | 90.71 % | 90.46 % | −0.25 points |" in text
    assert "a\\|b \\<i\\>" in text
    assert all(line.count("|") - line.count("\\|") == 5 for line in text.splitlines() if line.startswith("|"))


def test_without_jinja_the_json_is_written_and_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(PrunusError, match=re.escape("pip install 'prunus[report]'")):
        write_report(realistic(), tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["ratio"]["macs"] > 3
    assert not (tmp_path / "report.html").exists()


def test_wrong_facts_leave_no_file(tmp_path):
    with pytest.raises(InputError):
        write_report(realistic() | {"proof": 3}, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_a_file_is_one_clear_sentence(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(FileError, match=r"cannot write .*taken"):
        write_report(realistic(), tmp_path / "taken")


def test_a_report_with_one_epoch_and_one_level_still_draws(tmp_path):
    facts = realistic()
    facts["history"] = facts["history"][:1]
    facts["sensitivity"]["levels"] = [0.5]
    facts["sensitivity"]["curves"] = {"conv": [None], "fc": [0.5]}
    assert "svg" in Tags(page_of(facts, tmp_path)).seen


def test_forty_targets_name_the_eight_most_sensitive(tmp_path):
    facts = realistic()
    facts["sensitivity"]["curves"] = {f"layer{n:02}": [0.9 - n / 100] * 5 for n in range(40)}
    page = page_of(facts, tmp_path)
    named = re.findall(r'<text class="name c\d"[^>]*>(layer\d+)<', page)
    assert sorted(named) == [f"layer{n:02}" for n in range(32, 40)]


def test_gains_are_green_and_losses_red_beyond_the_noise(tmp_path):
    facts = realistic()
    facts["pruned"]["file_bytes"] = 2 * facts["dense"]["file_bytes"]
    facts["pruned"]["metrics"]["test"] |= {"top1": 0.95, "top5": 0.90, "loss": 0.30}
    cells = re.findall(r'<td class="change (\w+)">([^<]+)</td>', page_of(facts, tmp_path))
    found = {text: tone for tone, text in cells}
    assert found["3.57×"] == "good"
    assert found["0.500×"] == "bad"
    assert found["+4.29 points"] == "good"
    assert found["−9.69 points"] == "bad"
    assert found["+0.044"] == "bad"
    assert found["−0.03 points"] == "plain"


def test_bars_are_as_long_as_what_was_kept(tmp_path):
    facts = realistic()
    facts["groups"] = [{"name": "stem", "kind": "channel", "size": 16, "kept": 4}]
    facts["masks"] = [{"name": "fc.weight", "shape": [10, 20], "sparsity": 0.9}]
    page = page_of(facts, tmp_path)
    assert re.search(r'stem <small>channel</small></div><div class="track "><i style="width:25.0%">', page)
    assert re.search(r'fc.weight <small>10 × 20</small></div><div class="track mask"><i style="width:10.0%">', page)
    assert "4 of 16" in page
    assert "90.0 % zero" in page


def test_parameters_are_split_into_kept_zero_and_removed(tmp_path):
    facts = minimal()
    facts["dense"] |= {"parameters": 1000, "nonzeros": 1000}
    facts["pruned"] |= {"parameters": 600, "nonzeros": 500}
    page = page_of(facts, tmp_path)
    for tone, width, text in (
        ("live", "50.0", "kept, not zero: 500 (50.0 %)"),
        ("zero", "10.0", "kept, zero: 100 (10.0 %)"),
        ("gone", "40.0", "removed: 400 (40.0 %)"),
    ):
        assert f'<i class="{tone}" style="width:{width}%">' in page
        assert text in page
    assert "400 parameters were removed" in page
    assert "100 of those that are left are exactly zero" in page


def test_heat_table_shades_by_the_drop_from_the_dense_value(tmp_path):
    facts = realistic()
    facts["sensitivity"] |= {"levels": [0.5, 0.9], "dense": 0.9, "curves": {"a": [0.9, 0.5], "b": [0.8, 0.7]}}
    page = page_of(facts, tmp_path)
    shades = re.findall(r'<td style="--drop:([\d.]+)">([\d.]+) %</td>', page)
    assert shades == [("0.0", "90.00"), ("1.0", "50.00"), ("0.25", "80.00"), ("0.5", "70.00")]


def test_terms_of_the_loss_are_drawn_by_name_where_there_are_any(tmp_path):
    facts = realistic()
    assert "Terms of the loss" not in page_of(facts, tmp_path)
    facts["history"][0]["terms"] = {"rows": 0.75, "bn_l1": 0.5}
    facts["history"][1]["terms"] = {"rows": 0.25}
    page = page_of(facts, tmp_path)
    assert Tags(page).seen.count("svg") == 5
    (chart,) = (svg for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if "Terms of the loss" in svg)
    for words in ("rows", "bn_l1", "0.75", "0.25", "0.5"):
        assert words in chart
