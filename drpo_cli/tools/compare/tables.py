"""The tables of a grid as text, and the terminal, Markdown and HTML that show them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from drpo_cli.evaluate.metrics import Estimate
from drpo_cli.tools.compare.grid import short_keys
from drpo_cli.tools.compare.summaries import CellDifference, Report, Summary

NONE = "–"
WIDE = 200  # columns of a file or a pipe, which have no width


@dataclass(frozen=True)
class Table:
    """A table of text; all columns after the first `named` are numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    named: int


def make_tables(report: Report) -> list[Table]:
    """The table of cells; then differences and failed runs, where there are any."""
    found = [_make_cell_table(report)]
    if report.differences:
        found.append(_make_difference_table(report))
    if report.failed:
        rows = tuple((r.cell.label, str(r.seed), r.reason) for r in report.failed)
        found.append(Table("Failed runs", ("cell", "seed", "reason"), rows, 3))
    return found


def make_page_tables(report: Report) -> list[Table]:
    """The tables for page and Markdown: first an overview, if several keys vary."""
    return [*([_make_overview(report)] if len(report.axes) > 1 else []), *make_tables(report)]


def list_notes(report: Report) -> list[str]:
    """What the columns mean, one line each."""
    return [f"{name}: {text}" for name, text in report.definitions().items()]


def to_markdown(report: Report) -> str:
    """All tables and notes as Markdown, with the command above."""
    parts = [f"```\n{report.command}\n```"]
    for table in make_page_tables(report):
        rule = [":--" if i < table.named else "--:" for i in range(len(table.header))]
        lines = [_markdown_row(line) for line in (table.header, rule, *table.rows)]
        parts.append(f"**{table.title}**\n\n" + "\n".join(lines))
    parts.append("\n".join(f"- {note}" for note in list_notes(report)))
    return "\n\n".join(parts) + "\n"


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


def _make_cell_table(report: Report) -> Table:
    titles = short_keys([axis.key for axis in report.axes]).values()
    header = [*titles, "runs", "final", "best", "area"]
    if report.target is not None:
        header.append(f"{report.unit}s to {100 * report.target:g} %")
    header.append("collapsed")
    rows = tuple(tuple(_cell_row(row, report.target is not None)) for row in report.summaries)
    interval = "" if report.seeds == 1 else ", with 95 % intervals over seeds"
    return Table(f"Held-out avg@k, %{interval}", tuple(header), rows, len(report.axes))


def _cell_row(row: Summary, with_target: bool) -> Iterator[str]:
    yield from (value for _, value in row.cell.point)
    failed = f", {row.failed} failed" if row.failed else ""
    yield f"{row.finished} of {row.runs}{failed}"
    for found in (row.final, row.best, row.area):
        yield NONE if found is None else to_percent(found)
    if with_target:
        yield _show_reached(row)
    yield _show_share(row)


def _make_overview(report: Report) -> Table:
    """Final scores: a row per value of the first key, a column per combination of the others."""
    first, *others = report.axes
    short = short_keys([axis.key for axis in report.axes])
    differences = {row.cell.point: row for row in report.differences}
    rows: dict[str, list[str]] = {}
    columns: list[str] = []
    for row in report.summaries:
        column = ", ".join(f"{short[key]} {row.cell.value(key)}" for key in (a.key for a in others))
        columns += [] if column in columns else [column]
        text = NONE if row.final is None else to_percent(row.final)
        difference = differences.get(row.cell.point)
        rows.setdefault(row.cell.value(first.key), []).append(text + _arrow(difference))
    table = tuple((name, *values) for name, values in rows.items())
    title = (
        f"Final held-out avg@k, %; ↑ ↓ differs from {report.baseline.value} (corrected p < 0.05)"
    )
    return Table(title, (short[first.key], *columns), table, 1)


def _arrow(difference: CellDifference | None) -> str:
    return "" if difference is None else ("", " ↑", " ↓")[difference.sign]


def _make_difference_table(report: Report) -> Table:
    base, keys = report.baseline, short_keys([axis.key for axis in report.axes])
    header = (*keys.values(), "pairs", "final", "p", "area")
    rows = tuple(tuple(_difference_row(row)) for row in report.differences)
    title = f"Difference from {base.key}={base.value}, percentage points, paired by seed"
    return Table(title, header, rows, len(keys))


def _difference_row(row: CellDifference) -> Iterator[str]:
    yield from (value for _, value in row.cell.point)
    yield str(row.pairs)
    yield to_percent(row.final, "+")
    yield NONE if row.p is None else f"{row.p:.2g}"
    yield to_percent(row.area, "+")


def _show_reached(row: Summary) -> str:
    if row.reached is None:
        return NONE
    found = row.reached
    median = NONE if found.median is None else f"{found.median:g}"
    return f"{median} ({found.count} of {found.runs})"


def _show_share(row: Summary) -> str:
    if row.collapsed is None:
        return NONE
    found = row.collapsed
    interval = ""
    if found.low is not None and found.high is not None:
        interval = f" [{100 * found.low:.0f}, {100 * found.high:.0f}] %"
    return f"{found.count} of {found.runs}{interval}"


def to_percent(found: Estimate, sign: str = "") -> str:
    """A share in percent, with its interval if it has one."""
    text = f"{100 * found.value:{sign}.1f}"
    if found.low is None or found.high is None:
        return text
    return f"{text} [{100 * found.low:{sign}.1f}, {100 * found.high:{sign}.1f}]"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
