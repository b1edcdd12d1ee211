"""Write docs/report.schema.json from the records in prunus.report."""

import json
from pathlib import Path

from prunus.report import json_schema

target = Path(__file__).parents[1] / "docs" / "report.schema.json"
target.write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")
