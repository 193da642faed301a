"""The folder a run lives in: what is where, who holds it, and whether it is finished."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from drpo_cli.errors import UserError

RUN_LOCK = ".lock"  # held by rank 0, and by whoever prepares the folder
LAUNCHER_LOCK = ".launcher.lock"  # held by the launcher: also while the workers come and go
TRIES, PAUSE_S = 10, 0.02


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    @property
    def spec(self) -> Path:
        """The resolved spec."""
        return self.path / "spec.toml"

    @property
    def versions(self) -> Path:
        """Versions of what the run used, and its hardware."""
        return self.path / "versions.json"

    @property
    def metrics(self) -> Path:
        """One line of metrics a step."""
        return self.path / "metrics.jsonl"

    @property
    def held_out(self) -> Path:
        """The score of every held-out problem, a line an evaluation."""
        return self.path / "held_out.jsonl"

    @property
    def samples(self) -> Path:
        """The rollouts of every step, with every reward of theirs."""
        return self.path / "samples.jsonl"

    @property
    def events(self) -> Path:
        """What the run says once: starting up, resumed, stopped, failed."""
        return self.path / "events.jsonl"

    @property
    def quarantine(self) -> Path:
        """The calls of rewards that failed."""
        return self.path / "quarantine.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Checkpoint folders."""
        return self.path / "checkpoints"

    @property
    def report(self) -> Path:
        """What happened, as a page."""
        return self.path / "report.html"

    def tracker(self, name: str) -> Path:
        """What a tracker keeps: how far it is, and files of its own."""
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

    def exists(self) -> bool:
        """Whether a run was ever started here."""
        return self.spec.is_file()

    def record_error(self, rank: int, code: int, message: str) -> None:
        """Leaves word for the launcher."""
        write_whole(self.error(rank), json.dumps({"code": code, "message": message}))

    @contextmanager
    def held(self, lock: str = RUN_LOCK) -> Iterator[None]:
        """Holds the folder: no other run can. Released by the system when the process dies."""
        handle = os.open(self.path / lock, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            if not _locked(handle):
                raise UserError(
                    f"{self.path} is in use by a run that has not ended; wait for it, stop it, or "
                    f"set run.name to another name"
                )
            yield
        finally:
            os.close(handle)

    def in_use(self) -> bool:
        """Whether a run, or the command that launched it, holds the folder; it writes nothing."""
        return any(_is_held(self.path / lock) for lock in (RUN_LOCK, LAUNCHER_LOCK))


def write_whole(path: Path, text: str) -> None:
    """Replaces a file in one move: a kill or a reader finds the old one or the new one whole."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def _locked(handle: int) -> bool:
    # `in_use` takes the lock for a moment, so one refusal does not mean a run.
    for attempt in range(TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0 if attempt == TRIES - 1 else PAUSE_S)
    return False


def _is_held(lock: Path) -> bool:
    try:
        handle = os.open(lock, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
