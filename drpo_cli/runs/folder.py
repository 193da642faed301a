"""The folder of a run: its files, its locks, and how run folders are found."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from drpo_cli import secrets
from drpo_cli.errors import UserError, writing
from drpo_cli.runs import locks

RUN_LOCK = ".lock"  # held by rank 0, and by the command that prepares the folder
LAUNCHER_LOCK = ".launcher.lock"  # held by the launcher, also while workers start and end
LAUNCHER_LOCKS = ".launcher*.lock"  # of the launchers of all nodes
DEEPEST = 8  # levels of folders that are searched for runs


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run's files."""

    path: Path

    @property
    def spec(self) -> Path:
        """The resolved spec."""
        return self.path / "spec.toml"

    @property
    def versions(self) -> Path:
        """The versions of the packages that the run used, and its hardware."""
        return self.path / "versions.json"

    @property
    def metrics(self) -> Path:
        """One line of metrics per step."""
        return self.path / "metrics.jsonl"

    @property
    def held_out(self) -> Path:
        """The score of every held-out problem, one line per evaluation."""
        return self.path / "held_out.jsonl"

    @property
    def warm_up(self) -> Path:
        """One line per update of the supervised warm-up."""
        return self.path / "warm_up.jsonl"

    @property
    def samples(self) -> Path:
        """The responses of every step, with the value of every reward."""
        return self.path / "samples.jsonl"

    @property
    def events(self) -> Path:
        """Messages that the run writes once: started, resumed, stopped, failed."""
        return self.path / "events.jsonl"

    @property
    def quarantine(self) -> Path:
        """The calls of rewards that failed."""
        return self.path / "quarantine.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def report(self) -> Path:
        """The report, as an HTML page."""
        return self.path / "report.html"

    def tracker(self, name: str) -> Path:
        """A tracker's folder: the last step it was sent, and files of its own."""
        return self.path / "trackers" / name

    def tracker_log(self, name: str) -> Path:
        """Everything a tracker printed."""
        return self.path / "logs" / f"tracker-{name}.log"

    def log(self, rank: int) -> Path:
        """Everything a rank printed."""
        return self.path / "logs" / f"rank{rank}.log"

    def error(self, rank: int) -> Path:
        """Why a rank ended, if it did not end well: JSON with `code` and `message`."""
        return self.path / "logs" / f"rank{rank}.error"

    def beat(self, rank: int) -> Path:
        """Where a rank was a few seconds ago: JSON, replaced in place while the rank runs."""
        return self.path / "logs" / f"rank{rank}.alive"

    def exists(self) -> bool:
        """Whether a run was ever started here."""
        return self.spec.is_file()

    def record_error(self, rank: int, code: int, message: str) -> None:
        """Writes why a rank failed, for the launcher to read."""
        message = secrets.mask(message)
        write_whole(self.error(rank), json.dumps({"code": code, "message": message}))

    def forget_failures(self) -> None:
        """Removes what ranks of an earlier start left about themselves."""
        for kind in ("error", "alive"):
            for stale in self.path.glob(f"logs/rank*.{kind}"):
                stale.unlink()

    @contextmanager
    def lock(self, name: str = RUN_LOCK) -> Iterator[None]:
        """Locks the folder against other runs. The system releases it when the process dies.

        Raises UserError when another process holds it.
        """
        with locks.hold(self.path / name, _warn):
            yield

    @contextmanager
    def lock_all(self) -> Iterator[None]:
        """Holds the locks of the run and of the launchers of all nodes that it ever had."""
        launchers = {LAUNCHER_LOCK, *(path.name for path in self.path.glob(LAUNCHER_LOCKS))}
        with ExitStack() as stack:
            for name in (*sorted(launchers), RUN_LOCK):
                stack.enter_context(self.lock(name))
            yield

    def in_use(self) -> bool:
        """Whether a run, or the command that launched it, holds the folder. Writes nothing."""
        found = [self.path / RUN_LOCK, *self.path.glob(LAUNCHER_LOCKS)]
        return any(locks.holder(lock) for lock in found)


def launcher_lock(node: int) -> str:
    """The lock of a node's launcher; that of the first is `LAUNCHER_LOCK`."""
    return f".launcher-{node}.lock" if node else LAUNCHER_LOCK


@cache
def _warn(text: str) -> None:
    sys.stderr.write(f"warning: {text}\n")


def write_whole(path: Path, text: str | Iterable[str]) -> None:
    """Replaces a file in one move, so that a reader always finds the whole old or new text.

    A long text may come in parts. Writes into what cannot be replaced: a pipe, a terminal, the
    target of a link.
    """
    parts = [text] if isinstance(text, str) else text
    if path.is_symlink() or (path.exists() and not path.is_file()):
        with writing(path), path.open("w", encoding="utf-8") as file:
            file.writelines(parts)
        return
    partial = path.with_name(path.name + ".partial")
    try:
        with writing(path):
            with partial.open("w", encoding="utf-8") as file:
                file.writelines(parts)
            partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise


def open_folder(path: Path) -> RunFolder:
    """The folder of a run. Raises UserError when no run was started there."""
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise UserError(f"{path} {what}", "name the folder of a run, such as runs/NAME")
    folder = RunFolder(path)
    if not folder.exists():
        inside = sorted(found.parent for found in path.glob("*/spec.toml"))
        raise UserError(
            f"{path} is not a run folder: it has no spec.toml",
            f"runs inside it: {', '.join(map(str, inside[:5]))}"
            if inside
            else "`drpo runs DIR` lists the runs below a folder",
        )
    return folder


def find_runs(folder: Path, unread: list[str], depth: int = DEEPEST) -> Iterator[RunFolder]:
    """Finds the run folders at and below a folder; adds to `unread` those that it cannot read.

    Leaves out hidden folders, and does not follow links: they may lead in a circle.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        unread.append(f"{folder}: {error.strerror}")
        return
    names = {entry.name for entry in entries}
    if "spec.toml" in names and ("versions.json" in names or "metrics.jsonl" in names):
        yield RunFolder(folder)
        return
    for entry in entries:
        if depth and entry.name[0] != "." and entry.is_dir(follow_symlinks=False):
            yield from find_runs(Path(entry.path), unread, depth - 1)
