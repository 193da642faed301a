"""Finds run folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from drpo_cli.errors import UserError
from drpo_cli.runs.folder import RunFolder

DEEPEST = 8
"""Levels of folders that are looked through."""
_BESIDES = ("versions.json", "metrics.jsonl")


def start(folder: Path | None) -> Path:
    """Where to look: the folder given, else ./runs, else the working directory.

    Raises UserError when it is no folder.
    """
    if folder is None:
        return Path("runs") if Path("runs").is_dir() else Path(".")
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}; name a folder that has runs in it or below")
    return folder


def is_run(folder: Path) -> bool:
    """Whether a run was prepared or made here."""
    return _has_run({entry.name for entry in os.scandir(folder)})


def opened(folder: Path) -> RunFolder:
    """A run folder. Raises UserError when it is none."""
    if not folder.is_dir() or not is_run(folder):
        what = "is no run folder" if folder.is_dir() else "does not exist"
        raise UserError(
            f"{folder} {what}: a run folder has a spec.toml and a versions.json or metrics.jsonl; "
            "`drpo runs DIR` lists the runs below a folder"
        )
    return RunFolder(folder)


def runs_below(folder: Path, unread: list[str], depth: int = DEEPEST) -> Iterator[RunFolder]:
    """The run folders at and below a folder; those that may not be read go to `unread`.

    Hidden folders are left out, and links are not followed: they may lead in a circle.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        unread.append(f"{folder}: {error.strerror}")
        return
    if _has_run({entry.name for entry in entries}):
        yield RunFolder(folder)
        return
    for entry in entries:
        if depth and entry.name[0] != "." and entry.is_dir(follow_symlinks=False):
            yield from runs_below(Path(entry.path), unread, depth - 1)


def _has_run(names: set[str]) -> bool:
    return "spec.toml" in names and any(name in names for name in _BESIDES)
