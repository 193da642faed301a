"""`drpo runs` and `drpo runs diff`: lists runs, and shows how two differ."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from drpo_cli.console import open_console
from drpo_cli.errors import UserError
from drpo_cli.report.view.text import format_duration
from drpo_cli.runs.folder import find_runs
from drpo_cli.runs.saved import SavedRun, open_run
from drpo_cli.runs.summary import (
    ABSENT,
    KeyDifference,
    RunDifference,
    RunSummary,
    ScoreSummary,
    compare_runs,
    summarize,
)

STYLES = {"running": "cyan", "starting": "cyan", "finished": "green", "failed": "red"}
HEADINGS = ("run", "state", "steps", "held-out", "objective", "time", "written", "size")
NARROW = 100  # columns; on a narrower terminal, a run has lines of its own
NARROW_DIFFERENCE = 60
UNBROKEN = 100_000  # columns of a pipe


def list_runs(folder: Path | None, json_out: bool) -> None:
    """Shows the runs at and below a folder, the newest first.

    Raises UserError when the folder does not exist.
    """
    below, unread = _choose_folder(folder), list[str]()
    found = [summarize(SavedRun(run)) for run in find_runs(below, unread)]
    found.sort(key=lambda run: run.written, reverse=True)
    if json_out:
        rows = [{**asdict(each), "path": str(each.path)} for each in found]
        sys.stdout.write(json.dumps({"runs": rows, "unread": unread}, indent=1) + "\n")
        return
    if found:
        show_runs(found, below, sys.stdout)
    else:
        sys.stdout.write(f"there are no runs in {below} or below\n")
    for line in unread:
        sys.stderr.write(f"warning: could not be read: {line}\n")


def diff(first: Path, second: Path, json_out: bool) -> None:
    """Shows how two runs differ. Raises UserError when one is not a run folder."""
    found = compare_runs(open_run(first), open_run(second))
    if json_out:
        sys.stdout.write(_difference_as_json(found) + "\n")
    else:
        show_difference(found, sys.stdout)


def show_runs(found: Sequence[RunSummary], below: Path, stream: TextIO) -> None:
    """Prints one line per run, or two on a narrow terminal, and all notes below."""
    console = _open_console(stream)
    draw = _stacked_table if console.width < NARROW else _wide_table
    _print_table(console, draw(found, below))
    _print_notes(console, [f"{run.path}: {note}" for run in found for note in run.notes])


def show_difference(found: RunDifference, stream: TextIO) -> None:
    """Prints a table each of specs, versions and scores; dim, those that mean the same."""
    console = _open_console(stream)
    loud = [each for each in found.spec if not each.quiet]
    quiet = [each for each in found.spec if each.quiet]
    heads = (str(found.a.path), str(found.b.path))
    _print_section(console, "spec", loud, heads, "the specs are the same")
    _print_section(console, "versions and machine", found.versions, heads, "the same")
    scores = KeyDifference(
        "held-out", _format_scores(found.held_out_a), _format_scores(found.held_out_b)
    )
    _print_section(console, "scores", [scores], heads)
    if found.same_problems is False:
        console.print("scored on other problems, or sampled differently: not comparable")
    if quiet:
        _print_section(console, "names and folders", quiet, heads, style="dim")
    _print_notes(console, found.notes)


def _open_console(stream: TextIO) -> Console:
    console = open_console(stream)
    if not console.is_terminal:
        console.width = UNBROKEN
    return console


def _print_table(console: Console, table: Table) -> None:
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as caught:  # without the spaces that fill the last column
        console.print(table)
    console.file.writelines(f"{line.rstrip()}\n" for line in caught.get().splitlines())


def _print_notes(console: Console, notes: Sequence[str]) -> None:
    for note in notes:
        console.print(Text(f"note: {note}", "yellow"))


def _choose_folder(folder: Path | None) -> Path:
    # The folder given, else ./runs, else the working directory
    if folder is None:
        return Path("runs") if Path("runs").is_dir() else Path(".")
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}", "name a folder that has runs in it or below")
    return folder


def _cells(run: RunSummary, below: Path) -> tuple[str, ...]:
    """The text under each of HEADINGS."""
    try:
        name = str(run.path.relative_to(below))
    except ValueError:
        name = str(run.path)
    return (
        run.path.name if name == "." else name,
        run.state,
        f"{run.done}/{'?' if run.steps is None else run.steps}",
        _format_scores(run.held_out),
        run.objective,
        format_duration(run.seconds),
        format_time(run.written),
        _format_bytes(run.size),
    )


def _stacked_table(found: Sequence[RunSummary], below: Path) -> Table:
    table = Table.grid()
    table.add_column(overflow="fold")
    for run in found:
        name, state, steps, held_out, *more = _cells(run, below)
        head = Text.assemble((name, "bold"), " ", (state, STYLES.get(state, "")), f" {steps}")
        table.add_row(head)
        table.add_row(Text(f"  {held_out}  {'  '.join(more)}", "dim"))
    return table


def _wide_table(found: Sequence[RunSummary], below: Path) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold", justify="right" if heading == "size" else "left")
    for run in found:
        name, state, *more = _cells(run, below)
        table.add_row(Text(name), Text(state, STYLES.get(state, "")), *map(Text, more))
    return table


def _print_section(
    console: Console,
    title: str,
    rows: Sequence[KeyDifference],
    heads: tuple[str, str],
    none: str = "",
    style: str = "",
) -> None:
    console.print(Text(title, "bold"))
    if not rows:
        console.print(f"  {none}")
        return
    narrow = console.width < NARROW_DIFFERENCE
    table = Table.grid(padding=(0, 0 if narrow else 2))
    for _ in range(1 if narrow else 3):
        table.add_column(overflow="fold")
    if not narrow:
        table.add_row("", *(Text(head, "underline") for head in heads))
    for row in rows:
        cells = [f"  {row.key}", _format_value(row.a), _format_value(row.b)]
        if narrow:
            cells = [f"{cells[0]}: {cells[1]} | {cells[2]}"]
        table.add_row(*(Text(text, style) for text in cells))
    _print_table(console, table)


def _difference_as_json(found: RunDifference) -> str:
    # A side without a key has null
    return json.dumps(
        {
            "a": str(found.a.path),
            "b": str(found.b.path),
            "spec": [asdict(each) for each in found.spec],
            "versions": [asdict(each) for each in found.versions],
            "held_out": {"a": asdict(found.held_out_a), "b": asdict(found.held_out_b)},
            "same_problems": found.same_problems,
            "notes": found.notes,
        },
        indent=1,
        default=str,
    )


def _format_scores(held_out: ScoreSummary) -> str:
    """`base → last (best)`."""
    if held_out.last is None:
        return _format_share(held_out.base)
    text = f"{_format_share(held_out.base)} → {_format_share(held_out.last)}"
    return text if held_out.best == held_out.last else f"{text} ({_format_share(held_out.best)})"


def _format_share(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.1%}"


def _format_bytes(size: int) -> str:
    """A size in the unit that leaves it between 1 and 1024."""
    amount, units = float(size), ["KiB", "MiB", "GiB", "TiB"]
    unit = "B"
    while amount >= 1024 and units:
        amount, unit = amount / 1024, units.pop(0)
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"


def format_time(seconds: float) -> str:
    """Unix seconds in local time; some file systems hold times that no calendar has."""
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "?"


def _format_value(value: Any) -> str:
    if value is None:
        return ABSENT
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
