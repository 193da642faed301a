"""`python -m benchmarks [ROW …] [--size smoke] [--json FILE]`: measures rows, prints the table.

The exit code is 1 if a row crashed. A goal that is missed is a result, not an error.
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
WIDTH = 160  # columns of the table when it goes to a file


def main(arguments: list[str]) -> int:
    """Measures the rows that the arguments name; returns the exit code."""
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
    for results in _measure(rows, asked.size, start):
        # Written after each row, so that an interrupted bench loses nothing.
        file.write_text(json.dumps(results, indent=1))
    _print(results)
    sys.stderr.write(f"all data: {file}\n")
    return 1 if results["crashed"] else 0


def _measure(rows: list[_rows.Row], size: Size, start: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Measures the rows one by one; yields all results so far after each."""
    results = {**start, "rows": [], "crashed": []}
    for row in rows:
        sys.stderr.write(f"row {row.number}: {row.name} …\n")
        found = _rows.run(row, size, RESULTS / "logs")
        if isinstance(found, _rows.Crash):
            sys.stderr.write(found.message())
            results["crashed"].append(row.number)
        else:
            results["rows"].append(found)
        yield results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument(
        "rows", nargs="*", type=int, metavar="ROW", help="numbers of rows; default: all"
    )
    parser.add_argument("--size", choices=get_args(Size), default="full")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: .bench/TIME-SIZE.json")
    return parser


def _print(results: dict[str, Any]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    table = Table(box=box.MARKDOWN)
    for column in ("row", "figure", "median [least, most]", "goal", ""):
        table.add_column(column)
    for row in results["rows"]:
        for goal, figures in zip(row["goals"], row["figures"], strict=True):
            cells = _cells(Goal(**goal), figures, results["size"])
            table.add_row(f"{row['row']} {row['name']}", *cells)
    for number in results["crashed"]:
        table.add_row(str(number), "", "", "", "crashed")
    console.print(table, markup=False)
    console.print(
        f"{results['machine']}, commit {results['commit']}", markup=False, highlight=False
    )


def _cells(goal: Goal, figures: list[float], size: Size) -> tuple[str, str, str, str]:
    """The table's cells for one figure. A smoke run is not judged."""
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
