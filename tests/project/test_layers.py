"""Arrows go down only: every import of every module, read from its syntax tree."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "prunus"

LAYERS = (
    {"errors", "_version"},
    {"zeros", "selection", "yaml_source", "batches", "executors", "journal", "palette", "quality", "userfiles"},
    {"axes"},
    {"costs"},
    {"masks", "plans"},
    {"granularity"},
    {"statistics", "runtimes"},
    {"criteria", "solvers"},
    {"allocation", "regularizers"},
    {"schedules"},
    {"sensitivity", "oneshot", "permuting", "distiller"},
    {"training", "search"},
    {"recipes"},
    {"report"},
    {"cli", "__main__"},
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
# The zoo is a leaf: it needs torch and the error tree, and only what starts a run may need it.
ZOO_NEEDS = {"zoo", "errors"}
ZOO_USERS = {"zoo", "recipes", "cli"}
FORBIDDEN = {"torchvision", "timm", "torchao"}

FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def room_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path):
    """(line, dotted name) of every import in a file, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            if node.module == "prunus":
                yield from ((node.lineno, f"prunus.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module or ""


def faults(path):
    room = room_of(path)
    for line, name in imported(path):
        parts = name.split(".")
        if parts[0] in FORBIDDEN:
            yield f"{room}:{line} imports {parts[0]}"
        if parts[0] != "prunus" or len(parts) == 1:
            continue
        other = parts[1].removesuffix("__version__") or "_version"
        if not allowed(room, other):
            yield f"{path.relative_to(SOURCE)}:{line} imports prunus.{other}"


def allowed(room, other):
    if other not in LEVEL and other != "zoo":
        return False
    if room == "zoo":
        return other in ZOO_NEEDS
    if other == "zoo":
        return room in ZOO_USERS
    return LEVEL[other] <= LEVEL[room]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_only_from_its_own_layer_or_below(path):
    assert room_of(path) in LEVEL or room_of(path) == "zoo", f"{room_of(path)} has no layer; give it one here"
    assert list(faults(path)) == []


def test_report_and_command_line_are_known_to_no_room_below():
    below = [room for room in LEVEL if LEVEL[room] < LEVEL["report"]]
    assert not any(allowed(room, other) for room in below for other in ("report", "cli"))


def test_an_upward_import_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.SOURCE", tmp_path)
    (tmp_path / "masks").mkdir()
    bad = tmp_path / "masks" / "bad.py"
    bad.write_text("def f():\n    from prunus.report import complete\n    import torchvision\n")
    assert len(list(faults(bad))) == 2
    bad.write_text("from prunus import zoo\n")
    assert len(list(faults(bad))) == 1
    bad.write_text("from prunus.axes import trace\nfrom prunus.errors import InputError\nimport torch\n")
    assert list(faults(bad)) == []
