"""Files stay short, finished and free of one machine's paths."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONGEST = 400
UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3)) + r")\b")
MACHINE = re.compile(
    r"(?<![\w.])/(?:" + "|".join(("wo" + "rk", "ro" + "ot", "ho" + "me/\\w+", "Us" + "ers/\\w+")) + r")/"
)
TEXT = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".css", ".j2", ".json", ".cff", ""}


def tracked():
    """Files that git tracks or would track; a source archive without git has no such list."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / line for line in listed.stdout.splitlines()]
    return [path for path in paths if path.is_file() and path.suffix in TEXT]


def offenders(found):
    return [f"{path.relative_to(ROOT)}{detail}" for path, detail in found]


def matches(pattern, paths):
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if pattern.search(line):
                yield path, f":{number}: {line.strip()[:80]}"


def test_no_source_file_is_longer_than_400_lines():
    lengths = ((path, len(path.read_text(encoding="utf-8").splitlines())) for path in tracked() if path.suffix == ".py")
    assert offenders((path, f": {length} lines") for path, length in lengths if length > LONGEST) == []


def test_nothing_is_marked_unfinished():
    assert offenders(matches(UNFINISHED, tracked())) == []


def test_no_path_of_one_machine_is_written_down():
    assert offenders(matches(MACHINE, tracked())) == []


@pytest.mark.parametrize(
    ("pattern", "line", "found"),
    [
        (UNFINISHED, "# TO" + "DO: later", True),
        (UNFINISHED, "todos = 3", False),
        (MACHINE, "open('/ho" + "me/ada/data')", True),
        (MACHINE, "see /usr/share/datasets", False),
        (MACHINE, "https://example.org/ho" + "me/page/", False),
    ],
)
def test_the_patterns_find_what_they_should(pattern, line, found):
    assert bool(pattern.search(line)) == found
