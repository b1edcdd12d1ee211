"""The README and every page of the documentation: snippets run, links lead somewhere, nothing is forgotten."""

import json
import re
from pathlib import Path

import pytest
import yaml

from prunus.axes.rules import registry
from prunus.criteria import base
from prunus.report import json_schema

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(r"^```(python[^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# Blocks that cannot run on their own, by page: none so far, and each would need a reason beside it.
NO_RUN: dict[str, int] = {}


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page):
    """(first line, info string, code) of every python block."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start()) + 2, m[1].strip(), m[2]) for m in BLOCK.finditer(text)]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name_of)
def test_the_snippets_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A page may register a criterion or a rule of its own; other tests must not meet it.
    monkeypatch.setattr(base.KNOWN, "_factories", dict(base.KNOWN._factories))
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    names = {"__name__": "__main__"}
    for line, info, code in blocks(page):
        if info != "python":
            continue
        # The line numbers of the page, so that a failure points into it.
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_snippet_escapes_being_run(page):
    escaped = [info for _, info, _ in blocks(page) if info != "python"]
    assert len(escaped) == NO_RUN.get(name_of(page), 0), escaped


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_to_files(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target.split("#")[0] for target in LINK.findall(text) if "://" not in target]
    missing = [target for target in targets if target and not (page.parent / target).exists()]
    assert missing == []


def pages_in(navigation):
    for entry in navigation:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from pages_in(value) if isinstance(value, list) else [value]


def test_the_navigation_names_every_page_once():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = list(pages_in(settings["nav"]))
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES[1:])


def test_the_published_report_schema_is_the_one_in_force():
    published = json.loads((DOCS / "report.schema.json").read_text(encoding="utf-8"))
    assert published == json_schema(), "write it anew with: python scripts/write_schema.py"
