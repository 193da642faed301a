"""The files that a grid's report is: JSON, Markdown, figures and a page."""

from __future__ import annotations

import json
from pathlib import Path

from drpo_cli.tools.compare import figures, page, tables
from drpo_cli.tools.compare.report import Report


def write(report: Report, out: Path) -> None:
    """Writes compare.json, table.md, the figures and report.html into the grid's folder."""
    (out / "compare.json").write_text(json.dumps(report.as_dict(), indent=1, allow_nan=False))
    (out / "table.md").write_text(tables.markdown(report))
    drawings = figures.write(report, out)
    partial = out / "report.partial"
    partial.write_text(page.html_page(report, drawings))
    partial.rename(out / "report.html")
