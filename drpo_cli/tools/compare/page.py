"""`report.html` of a grid: one page that opens from disk, without scripts, in either theme."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from drpo_cli.report.html import Table, render
from drpo_cli.tools.compare import tables
from drpo_cli.tools.compare.report import Report
from drpo_cli.tools.compare.tables import Grid

TEMPLATE = "tools/compare/page.html.jinja"


def html_page(report: Report, drawings: Sequence[str]) -> str:
    """Renders the page; `drawings` are SVG."""
    return render(
        TEMPLATE,
        report.name,
        counted=_count_runs(report),
        drawings=[Markup(drawing) for drawing in drawings],
        tables=[
            {"title": grid.title, "table": _table(grid)} for grid in tables.page_tables(report)
        ],
        definitions=report.definitions(),
        command=report.command,
    )


def _count_runs(report: Report) -> str:
    cells, runs = len(report.summaries), len(report.results)
    finished = sum(result.finished for result in report.results)
    return (
        f"{cells} cells × {report.seeds} seeds = {runs} runs: {finished} finished, "
        f"{len(report.failed)} failed."
    )


def _table(grid: Grid) -> Table:
    return Table(grid.header, grid.rows, dict.fromkeys(grid.header[grid.named :], "n"))
