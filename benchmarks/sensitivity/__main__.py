"""Sensitivity analysis against the naive loop: the same numbers, and how much sooner.

    python -m benchmarks.sensitivity                  # all, then the page and the graphs
    python -m benchmarks.sensitivity --only resnet20

A line per net and granularity is appended to the store as it finishes; a second run does what is not there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from benchmarks.sensitivity.measure import compare, more
from benchmarks.sensitivity.nets import STORE
from benchmarks.sensitivity.report import markdown

from prunus.sensitivity import Curves

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "sensitivity.md"
GRAPHS = ROOT / "docs" / "concepts"
CASES = (
    ("resnet20", "element"),
    ("resnet20", "filter"),
    ("resnet20", "more"),
    ("vgg16_bn_cifar", "element"),
    ("lite0", "filter"),
)


def main() -> None:
    """Run what the store lacks, then write the page and the graphs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NET")
    options = parser.parse_args()
    torch.set_num_threads(1)
    STORE.mkdir(exist_ok=True)
    file = STORE / "lines.jsonl"
    lines: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for net, kind in CASES:
        if options.only in (None, net) and not any((x["net"], x["kind"]) == (net, kind) for x in lines):
            found = more(net) if kind == "more" else compare(net, kind)
            lines.append({**found, "kind": kind})
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(lines[-1]) + "\n")
            print(lines[-1])
    for path in sorted(STORE.glob("curves-*.json")):
        curves = Curves.from_dict(json.loads(path.read_text(encoding="utf-8")))
        curves.plot(GRAPHS / f"sensitivity-{path.stem.removeprefix('curves-')}.svg")
    RESULT.write_text(markdown(lines, "python -m benchmarks.sensitivity"), encoding="utf-8")


if __name__ == "__main__":
    main()
