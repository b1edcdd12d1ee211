"""Write the table of the README from the committed run in benchmarks/results/quickstart/report.json.

python benchmarks/readme_table.py            writes the README
python benchmarks/readme_table.py --check    fails where the README says something else
"""

import json
import re
import sys
from pathlib import Path

from prunus.report import table_markdown

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "benchmarks" / "results" / "quickstart" / "report.json"
BLOCK = re.compile(r"(<!-- quickstart-table:[^\n]*-->\n).*?(<!-- /quickstart-table -->)", re.DOTALL)


def main() -> None:
    """Replace what stands between the two marks."""
    readme = ROOT / "README.md"
    old = readme.read_text(encoding="utf-8")
    table = table_markdown(json.loads(REPORT.read_text(encoding="utf-8")))
    new, found = BLOCK.subn(lambda match: f"{match[1]}{table}{match[2]}", old)
    if found != 1:
        sys.exit("README.md has no quickstart-table block")
    if "--check" in sys.argv and new != old:
        sys.exit("README.md differs from the committed report; run: python benchmarks/readme_table.py")
    readme.write_text(new, encoding="utf-8")


main()
