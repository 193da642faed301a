"""`python -m benchmarks [ROW …] [--size smoke] [--json FILE]`: measures rows, prints the table.

Exits with 1 when a row crashed; a goal that is missed is a result.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import _machine, _rows
from benchmarks._bench import Goal, Size
from drpo_cli.errors import EXIT_USER_ERROR, UserError

RESULTS = _rows.FOLDER.parent / ".bench"
WIDTH = 160  # columns of the table where it goes to a file


def main(arguments: list[str]) -> int:
    """Measures what is asked for; returns the exit code."""
    asked = _parser().parse_args(arguments)
    try:
        rows = _rows.find(asked.rows)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_USER_ERROR
    began = datetime.now().astimezone()
    file = asked.json or RESULTS / f"{began:%Y-%m-%d-%H%M%S}-{asked.size}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    start = {"began": began.isoformat(), "size": asked.size, **_machine.facts()}
    for told in _measured(rows, asked.size, start):
        # After each row: what an interrupted bench has measured is not lost.
        file.write_text(json.dumps(told, indent=1))
    _print(told)
    sys.stderr.write(f"everything: {file}\n")
    return 1 if told["crashed"] else 0


def _measured(rows: list[_rows.Row], size: Size, start: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What is known after each row."""
    told = {**start, "rows": [], "crashed": []}
    for row in rows:
        sys.stderr.write(f"row {row.number}: {row.name} …\n")
        found = _rows.run(row, size, RESULTS / "logs")
        if isinstance(found, _rows.Crash):
            sys.stderr.write(found.told())
            told["crashed"].append(row.number)
        else:
            told["rows"].append(found)
        yield told


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("rows", nargs="*", type=int, metavar="ROW", help="numbers; all without")
    parser.add_argument("--size", choices=get_args(Size), default="full")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: .bench/TIME-SIZE.json")
    return parser


def _print(told: dict[str, Any]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    table = Table(box=box.MARKDOWN)
    for column in ("row", "figure", "median [least, most]", "goal", ""):
        table.add_column(column)
    for row in told["rows"]:
        for goal, figures in zip(row["goals"], row["figures"], strict=True):
            cells = _cells(Goal(**goal), figures, told["size"])
            table.add_row(f"{row['row']} {row['name']}", *cells)
    for number in told["crashed"]:
        table.add_row(str(number), "", "", "", "crashed")
    console.print(table, markup=False)
    console.print(f"{told['machine']}, commit {told['commit']}", markup=False, highlight=False)


def _cells(goal: Goal, figures: list[float], size: Size) -> tuple[str, str, str, str]:
    """What the table says of one figure. A smoke run is not judged."""
    median = statistics.median(figures)
    spread = f"{median:.3g} [{min(figures):.3g}, {max(figures):.3g}]"
    verdict = "met" if goal.met(median) else "MISSED"
    return (
        goal.text,
        spread,
        f"{'≤' if goal.at_most else '≥'} {goal.limit:g}",
        "not judged" if size == "smoke" else verdict,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
