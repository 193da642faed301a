"""`report.html` of a grid: one page that opens from disk, without scripts, in either theme."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from drpo_cli.tools.compare import tables
from drpo_cli.tools.compare.report import Report
from drpo_cli.tools.compare.tables import Grid

STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 78rem; margin: 2rem auto; padding: 0 1rem; }
figure { margin: 1rem 0; }  figure svg { width: 100%; height: auto; }
.wide { overflow-x: auto; }  table { border-collapse: collapse; }
th, td { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
th { text-align: left; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }  dt { font-weight: 600; }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def html_page(report: Report, drawings: Sequence[str]) -> str:
    """The whole page; `drawings` are SVG."""
    meanings = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>"
        for name, text in report.definitions().items()
    )
    body = "\n".join(
        [
            f"<h1>{escape(report.name)}</h1>",
            f"<p>{_counted(report)}</p>",
            *(f"<figure>{drawing}</figure>" for drawing in drawings),
            *(_table(table) for table in tables.page_tables(report)),
            f"<h2>What the columns mean</h2><dl>{meanings}</dl>",
            f"<h2>Command</h2><pre>{escape(report.command)}</pre>",
        ]
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(report.name)}</title><style>{STYLE}</style>{body}</html>\n"
    )


def _counted(report: Report) -> str:
    cells, runs = len(report.summaries), len(report.results)
    finished = sum(result.finished for result in report.results)
    return (
        f"{cells} cells × {report.seeds} seeds = {runs} runs: {finished} finished, "
        f"{len(report.failed)} failed."
    )


def _table(table: Grid) -> str:
    def cell(tag: str, index: int, text: str) -> str:
        kind = "" if index < table.named else ' class="n"'
        return f"<{tag}{kind}>{escape(text)}</{tag}>"

    head = "".join(cell("th", i, name) for i, name in enumerate(table.header))
    rows = "".join(
        "<tr>" + "".join(cell("td", i, text) for i, text in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    return (
        f'<h2>{escape(table.title)}</h2><div class="wide">'
        f"<table><tr>{head}</tr>{rows}</table></div>"
    )
