"""What `drpo runs` and `drpo runs diff` do."""

from __future__ import annotations

import sys
from pathlib import Path

from drpo_cli.errors import UserError
from drpo_cli.runs.folder import find_runs
from drpo_cli.runs.saved import SavedRun, open_run
from drpo_cli.runs.summary import compare_runs, summarize
from drpo_cli.tools.runs import show_difference, table


def list_runs(folder: Path | None, json_out: bool) -> None:
    """Shows the runs at and below a folder, the newest first.

    Raises UserError when the folder does not exist.
    """
    below, unread = _choose_folder(folder), list[str]()
    found = [summarize(SavedRun(run)) for run in find_runs(below, unread)]
    found.sort(key=lambda run: run.written, reverse=True)
    if json_out:
        sys.stdout.write(table.as_json(found, unread) + "\n")
        return
    if found:
        table.show(found, below, sys.stdout)
    else:
        sys.stdout.write(f"there are no runs in {below} or below\n")
    for line in unread:
        sys.stderr.write(f"warning: could not be read: {line}\n")


def diff(first: Path, second: Path, json_out: bool) -> None:
    """Shows how two runs differ. Raises UserError when one is not a run folder."""
    found = compare_runs(open_run(first), open_run(second))
    if json_out:
        sys.stdout.write(show_difference.as_json(found) + "\n")
    else:
        show_difference.show(found, sys.stdout)


def _choose_folder(folder: Path | None) -> Path:
    # The folder given, else ./runs, else the working directory
    if folder is None:
        return Path("runs") if Path("runs").is_dir() else Path(".")
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}", "name a folder that has runs in it or below")
    return folder
