"""The tables of a grid, once: as cells of text, shown in the terminal, in Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from drpo_cli.evaluate.metrics import Estimate
from drpo_cli.tools.compare.grid import short_keys
from drpo_cli.tools.compare.report import Report
from drpo_cli.tools.compare.summaries import Difference, Summary

NONE = "–"
WIDE = 200  # columns, where no terminal says how many there are


@dataclass(frozen=True)
class Grid:
    """A table of text; all columns after the first `named` are numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    named: int


def tables(report: Report) -> list[Grid]:
    """The table of cells, and those of differences and failed runs where there are any."""
    found = [_cells(report)]
    if report.differences:
        found.append(_differences(report))
    if report.failed:
        rows = tuple((r.cell.label, str(r.seed), r.reason) for r in report.failed)
        found.append(Grid("Failed runs", ("cell", "seed", "reason"), rows, 3))
    return found


def page_tables(report: Report) -> list[Grid]:
    """The tables where there is room: an overview first, for grids of several keys."""
    return [*([_overview(report)] if len(report.axes) > 1 else []), *tables(report)]


def notes(report: Report) -> list[str]:
    """What the columns mean, a line each."""
    return [f"{name}: {text}" for name, text in report.definitions().items()]


def markdown(report: Report) -> str:
    """All tables and notes as Markdown, with the command above."""
    parts = [f"```\n{report.command}\n```"]
    for table in page_tables(report):
        rule = [":--" if i < table.named else "--:" for i in range(len(table.header))]
        lines = [_row(line) for line in (table.header, rule, *table.rows)]
        parts.append(f"**{table.title}**\n\n" + "\n".join(lines))
    parts.append("\n".join(f"- {note}" for note in notes(report)))
    return "\n\n".join(parts) + "\n"


def show(report: Report) -> None:
    """Prints the tables."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    wide = Console(highlight=False, markup=False)
    # a file or a pipe has no width to keep to
    console = wide if wide.is_terminal else Console(highlight=False, markup=False, width=WIDE)
    for table in tables(report):
        shown = Table(
            title=table.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False,
            collapse_padding=True,
        )  # fmt: skip
        for i, name in enumerate(table.header):
            shown.add_column(
                name, justify="left" if i < table.named else "right", no_wrap=i >= table.named
            )
        for row in table.rows:
            shown.add_row(*(Text(cell) for cell in row))
        console.print(shown)
    for note in notes(report):
        console.print(note, style="dim")


def _cells(report: Report) -> Grid:
    titles = short_keys([axis.key for axis in report.axes]).values()
    header = [*titles, "runs", "final", "best", "area"]
    if report.target is not None:
        header.append(f"steps to {100 * report.target:g} %")
    header.append("collapsed")
    rows = tuple(tuple(_cell(row, report.target is not None)) for row in report.summaries)
    interval = "" if report.seeds == 1 else ", with 95 % intervals over seeds"
    return Grid(f"Held-out avg@k, %{interval}", tuple(header), rows, len(report.axes))


def _cell(row: Summary, with_target: bool) -> Iterator[str]:
    yield from (value for _, value in row.cell.point)
    failed = f", {row.failed} failed" if row.failed else ""
    yield f"{row.finished} of {row.runs}{failed}"
    for found in (row.final, row.best, row.area):
        yield NONE if found is None else percent(found)
    if with_target:
        yield _reached(row)
    yield _share(row)


def _overview(report: Report) -> Grid:
    """Final scores: a row a value of the first key, a column each combination of the others."""
    first, *others = report.axes
    short = short_keys([axis.key for axis in report.axes])
    surer = {row.cell.point: row for row in report.differences}
    rows: dict[str, list[str]] = {}
    columns: list[str] = []
    for row in report.summaries:
        column = ", ".join(f"{short[key]} {row.cell.value(key)}" for key in (a.key for a in others))
        columns += [] if column in columns else [column]
        text = NONE if row.final is None else percent(row.final)
        difference = surer.get(row.cell.point)
        rows.setdefault(row.cell.value(first.key), []).append(text + _arrow(difference))
    table = tuple((name, *values) for name, values in rows.items())
    title = (
        f"Final held-out avg@k, %; ↑ ↓ differs from {report.baseline.value} (interval without 0)"
    )
    return Grid(title, (short[first.key], *columns), table, 1)


def _arrow(difference: Difference | None) -> str:
    if difference is None or difference.final.low is None or difference.final.high is None:
        return ""
    return " ↑" if difference.final.low > 0 else " ↓" if difference.final.high < 0 else ""


def _differences(report: Report) -> Grid:
    base, keys = report.baseline, short_keys([axis.key for axis in report.axes])
    header = (*keys.values(), "pairs", "final", "area")
    rows = tuple(tuple(_difference(row)) for row in report.differences)
    title = f"Difference from {base.key}={base.value}, percentage points, paired by seed"
    return Grid(title, header, rows, len(keys))


def _difference(row: Difference) -> Iterator[str]:
    yield from (value for _, value in row.cell.point)
    yield str(row.pairs)
    yield from (percent(found, "+") for found in (row.final, row.area))


def _reached(row: Summary) -> str:
    if row.reached is None:
        return NONE
    found = row.reached
    median = NONE if found.median is None else f"{found.median:g}"
    return f"{median} ({found.count} of {found.runs})"


def _share(row: Summary) -> str:
    if row.collapsed is None:
        return NONE
    found = row.collapsed
    interval = ""
    if found.low is not None and found.high is not None:
        interval = f" [{100 * found.low:.0f}, {100 * found.high:.0f}] %"
    return f"{found.count} of {found.runs}{interval}"


def percent(found: Estimate, sign: str = "") -> str:
    """A share in per cent with its interval, where it has one."""
    text = f"{100 * found.value:{sign}.1f}"
    if found.low is None or found.high is None:
        return text
    return f"{text} [{100 * found.low:{sign}.1f}, {100 * found.high:{sign}.1f}]"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
