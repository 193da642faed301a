"""The runs as a table: as wide as a terminal allows, whole for a pipe, and for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from drpo_cli.report.view.text import format_duration
from drpo_cli.runs.summary import RunSummary, ScoreSummary

STYLES = {"running": "cyan", "starting": "cyan", "finished": "green", "failed": "red"}
HEADINGS = ("run", "state", "steps", "held-out", "objective", "time", "written", "size")
_NARROW = 100  # below, a run takes lines of its own


def as_json(found: Sequence[RunSummary], unread: Sequence[str]) -> str:
    """`{"runs": […], "unread": […]}`; times are unix seconds, sizes bytes."""
    rows = [{**asdict(each), "path": str(each.path)} for each in found]
    return json.dumps({"runs": rows, "unread": list(unread)}, indent=1)


def show(found: Sequence[RunSummary], below: Path, stream: TextIO) -> None:
    """One line a run and more on a narrow terminal; its notes under it."""
    console = Console(file=stream, markup=False, highlight=False)
    if not console.is_terminal:
        stream.writelines(f"{line}\n" for line in _plain(found, below))
    elif console.width < _NARROW:
        console.print(_stacked(found, below))
    else:
        console.print(_table(found, below))


def cells(run: RunSummary, below: Path) -> tuple[str, ...]:
    """What stands under each of HEADINGS."""
    try:
        name = str(run.path.relative_to(below))
    except ValueError:
        name = str(run.path)
    return (
        run.path.name if name == "." else name,
        run.state,
        f"{run.done}/{'?' if run.steps is None else run.steps}",
        score(run.held_out),
        run.objective,
        format_duration(run.seconds),
        time.strftime("%Y-%m-%d %H:%M", time.localtime(run.written)),
        in_bytes(run.size),
    )


def score(held_out: ScoreSummary) -> str:
    """Base → last (best)."""
    if held_out.last is None:
        return _share(held_out.base)
    text = f"{_share(held_out.base)} → {_share(held_out.last)}"
    return text if held_out.best == held_out.last else f"{text} ({_share(held_out.best)})"


def in_bytes(size: int) -> str:
    """A size in the unit that leaves it between 1 and 1024."""
    amount, units = float(size), ["KiB", "MiB", "GiB", "TiB"]
    unit = "B"
    while amount >= 1024 and units:
        amount, unit = amount / 1024, units.pop(0)
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _plain(found: Sequence[RunSummary], below: Path) -> list[str]:
    rows = [HEADINGS, *(cells(run, below) for run in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row, run in zip(rows, [None, *found], strict=True):
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(padded).rstrip())
        lines += [f"  note: {note}" for note in (run.notes if run else ())]
    return lines


def _stacked(found: Sequence[RunSummary], below: Path) -> Table:
    table = Table.grid()
    table.add_column(overflow="fold")
    for run in found:
        name, state, steps, held_out, *more = cells(run, below)
        head = Text.assemble((name, "bold"), " ", (state, STYLES.get(state, "")), f" {steps}")
        table.add_row(head)
        table.add_row(Text(f"  {held_out}  {'  '.join(more)}", "dim"))
        for note in run.notes:
            table.add_row(Text(f"  note: {note}", "yellow"))
    return table


def _table(found: Sequence[RunSummary], below: Path) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold", justify="right" if heading == "size" else "left")
    for run in found:
        name, state, *more = cells(run, below)
        title = Text("\n").join([Text(name), *(Text(f"note: {n}", "yellow") for n in run.notes)])
        table.add_row(title, Text(state, STYLES.get(state, "")), *map(Text, more))
    return table
