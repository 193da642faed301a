"""The view of several runs: side by side, one below the other, or one row per run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from drpo_cli.report.view.follow import Followed
from drpo_cli.report.view.frame import STATE_STYLES, Space, draw_run
from drpo_cli.report.view.text import (
    format_duration,
    format_number,
    head,
    make_visible,
    sparkline,
)

LEAST_WIDTH, LEAST_HEIGHT = 60, 14  # of a run that is shown in full
BETWEEN = " │ "


def draw_runs(
    runs: list[Followed], width: int, height: int, ascii_only: bool = False
) -> list[Text]:
    """Draws the runs within a rectangle, each in full where there is room."""
    if len(runs) == 1:
        return draw_run(runs[0], width, height, ascii_only)
    between = " | " if ascii_only else BETWEEN
    each = (width - len(between) * (len(runs) - 1)) // len(runs)
    if each >= LEAST_WIDTH:
        return _join([draw_run(run, each, height, ascii_only) for run in runs], each, between)
    if height // len(runs) >= LEAST_HEIGHT:
        parts = [draw_run(run, width, height // len(runs) - 1, ascii_only) for run in runs]
        rule = Text(("-" if ascii_only else "─") * width, "dim")
        return [line for part in parts for line in (*part, rule)][:-1]
    return draw_rows(runs, Space(width, ascii_only), height)


def _join(parts: list[list[Text]], width: int, between: str) -> list[Text]:
    found = []
    for i in range(max(map(len, parts))):
        cells = [part[i] if i < len(part) else Text() for part in parts]
        for cell in cells[:-1]:
            cell.append(" " * (width - cell.cell_len))
        found.append(Text(between, "dim").join(cells))
    return found


@dataclass(frozen=True)
class Column:
    """A column of the table; on a narrow screen, those with the highest numbers are left out."""

    priority: int
    name: str
    width: int
    cell: Callable[[Followed, Space], str]


def _held_out(run: Followed, space: Space) -> str:
    values = [score for r in run.metrics if (score := r.get("held_out")) is not None]
    if not values:
        return "–"
    return f"{format_number(values[-1])} {sparkline(values, 6, space.levels)}"


def _metric(key: str) -> Callable[[Followed, Space], str]:
    def show(run: Followed, space: Space) -> str:
        values: Mapping[str, Any] = run.last
        return format_number(values.get(key))

    return show


def _eta(run: Followed, space: Space) -> str:
    remaining = run.remaining()
    return "" if remaining is None else format_duration(remaining)


def _describe_trouble(run: Followed, space: Space) -> str:
    failed = sum(run.failed.values())
    parts = [f"{failed} failed"] if failed else []
    return ", ".join([*parts, *(alert.kind for alert in run.current_alerts())])


COLUMNS = (
    Column(1, "state", 8, lambda run, space: run.state),
    Column(1, "step", 11, lambda run, space: f"{run.done}/{run.total}"),
    Column(2, "held-out", 12, _held_out),
    Column(3, "reward", 7, _metric("reward")),
    Column(5, "|π−μ| p99", 9, _metric("shift_p99")),
    Column(4, "ETA", 8, _eta),
    Column(6, "alerts", 24, _describe_trouble),
)
LEAST_NAME, MOST_NAME = 12, 40


def draw_rows(runs: list[Followed], space: Space, height: int) -> list[Text]:
    """Draws a heading and a row per run; the last line counts the runs that do not fit."""
    columns = list(COLUMNS)
    while columns and sum(c.width + 1 for c in columns) + LEAST_NAME > space.width:
        columns.remove(max(columns, key=lambda column: column.priority))
    left = space.width - sum(column.width + 1 for column in columns)
    longest = max(len(run.name) for run in runs)
    name = max(1, min(left, MOST_NAME, max(longest, LEAST_NAME)))
    heading = " ".join(["run".ljust(name), *(c.name.ljust(c.width) for c in columns)])
    shown = runs if len(runs) < height else runs[: max(0, height - 2)]
    found = [Text(heading, "bold"), *(_row(run, name, columns, space) for run in shown)]
    if len(shown) < len(runs):
        found.append(Text(f"… and {len(runs) - len(shown)} more", "dim"))
    for line in found:
        line.truncate(space.width, overflow="ellipsis")
    return found[: max(0, height)]


def _row(run: Followed, name: int, columns: list[Column], space: Space) -> Text:
    row = Text(_pad(make_visible(run.name), name))
    for column in columns:
        text = _pad(column.cell(run, space), column.width)
        row.append(" ").append(text, STATE_STYLES.get(text.strip(), ""))
    return row


def _pad(text: str, width: int) -> str:
    cut = Text(head(text, width))
    cut.append(" " * (width - cut.cell_len))
    return cut.plain
