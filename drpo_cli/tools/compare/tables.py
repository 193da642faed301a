"""Shows the tables of a grid: in the terminal, as Markdown, and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drpo_cli.tools.compare.report import Report
from drpo_cli.tools.compare.rows import Table, make_base_table, make_overviews, make_tables

WIDE = 200  # columns of a file or a pipe, which have no width


def make_page_tables(report: Report) -> list[Table]:
    """The tables for page and Markdown: first the overviews, if several keys vary."""
    return [*make_overviews(report), *make_tables(report), *make_base_table(report)]


def list_notes(report: Report) -> list[str]:
    """What the columns mean, one line each."""
    return [f"{name}: {text}" for name, text in report.definitions().items()]


def to_markdown(report: Report) -> str:
    """All tables and notes as Markdown, with the command above."""
    parts = [f"```\n{report.command}\n```"]
    parts += [table_to_markdown(table) for table in make_page_tables(report)]
    parts.append("\n".join(f"- {note}" for note in list_notes(report)))
    return "\n\n".join(parts) + "\n"


def table_to_markdown(table: Table) -> str:
    """One table as Markdown, with its title above."""
    rule = [":--" if i < table.named else "--:" for i in range(len(table.header))]
    lines = [_markdown_row(line) for line in (table.header, rule, *table.rows)]
    return f"**{table.title}**\n\n" + "\n".join(lines)


def to_page(report: Report, drawings: Sequence[str]) -> str:
    """The grid's `report.html`: one page without scripts, for light and dark themes.

    `drawings` are SVG.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=folder, autoescape=True, undefined=StrictUndefined)
    finished = sum(result.finished for result in report.results)
    return pages.get_template("page.html").render(
        report=report,
        finished=finished,
        drawings=[Markup(drawing) for drawing in drawings],
        tables=make_page_tables(report),
    )


def print_tables(report: Report) -> None:
    """Prints the tables."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    from drpo_cli.console import open_console

    wide = open_console()
    console = wide if wide.is_terminal else open_console(width=WIDE)
    for table in make_tables(report):
        shown = RichTable(
            title=table.title,
            title_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        for i, name in enumerate(table.header):
            shown.add_column(
                name, justify="left" if i < table.named else "right", no_wrap=i >= table.named
            )
        for row in table.rows:
            shown.add_row(*(Text(cell) for cell in row))
        console.print(shown)
    for note in list_notes(report):
        console.print(note, style="dim")


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
