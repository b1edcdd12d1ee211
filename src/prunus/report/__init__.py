"""What shall they see? The facts of a run as JSON, as a table, and as one self-contained page."""

from prunus.report.facts import json_schema, validate
from prunus.report.figures import complete, differences, ratios, verdict
from prunus.report.picture import picture, write_picture
from prunus.report.table import print_table, table_markdown
from prunus.report.write import write_report

__all__ = [
    "complete",
    "differences",
    "json_schema",
    "picture",
    "print_table",
    "ratios",
    "table_markdown",
    "validate",
    "verdict",
    "write_picture",
    "write_report",
]
