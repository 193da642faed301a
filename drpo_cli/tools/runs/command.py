"""What `drpo runs` and `drpo runs diff` do."""

from __future__ import annotations

import sys
from pathlib import Path

from drpo_cli.runs import difference, find
from drpo_cli.runs.facts import facts
from drpo_cli.tools.runs import show_difference, table


def list_runs(folder: Path | None, json_out: bool) -> None:
    """Shows the runs at and below a folder, the newest first. Raises UserError without a folder."""
    below, unread = find.start(folder), list[str]()
    found = [facts(run) for run in find.runs_below(below, unread)]
    found.sort(key=lambda run: run.written, reverse=True)
    if json_out:
        sys.stdout.write(table.as_json(found, unread) + "\n")
        return
    if found:
        table.show(found, below, sys.stdout)
    else:
        sys.stdout.write(f"there are no runs in {below} or below\n")
    for line in unread:
        sys.stderr.write(f"warning: could not be looked into: {line}\n")


def diff(first: Path, second: Path, json_out: bool) -> None:
    """Shows how two runs differ. Raises UserError when one is no run folder."""
    found = difference.between(find.opened(first), find.opened(second))
    if json_out:
        sys.stdout.write(show_difference.as_json(found) + "\n")
    else:
        show_difference.show(found, sys.stdout)
