"""Why ranks of a run failed, read from the files that they leave; each failure is shown once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

from drpo_cli.errors import EXIT_RUN_FAILED
from drpo_cli.runs.folder import RunFolder

PATIENCE_S = 1.0  # a crash may be the effect of a user's mistake that another rank records


class Failure(NamedTuple):
    """Why a rank failed, and the exit code that the run gets for it."""

    code: int
    message: str
    rank: int


def first_failure(folder: RunFolder, ranks: Iterable[int]) -> Failure | None:
    """The failure that caused the others; None when no rank recorded one.

    A user's mistake comes before a crash, and of several the earliest counts: the other ranks then
    fail because a neighbour is gone.
    """
    there = {path.name for path in folder.path.glob("logs/rank*.error")}
    recorded = [
        (
            json.loads(folder.error(rank).read_text(encoding="utf-8")),
            folder.error(rank).stat().st_mtime,
            rank,
        )
        for rank in ranks
        if folder.error(rank).name in there
    ]
    if not recorded:
        return None
    record, _, rank = min(recorded, key=lambda item: (-item[0]["code"], item[1]))
    return Failure(int(record["code"]), str(record["message"]), rank)


class Failures:
    """The failures of a run on `world` ranks. Two threads ask: the monitor and the launcher."""

    def __init__(self, folder: RunFolder, world: int):
        self.folder = folder
        self.world = world
        self._shown = False
        self._lock = threading.Lock()
        self._crashed_at: float | None = None

    def new_message(self) -> str:
        """What to show now: empty when no rank has failed, or its failure was shown before.

        A crash waits a moment, because a user's mistake on another rank may have caused it.
        """
        with self._lock:
            failure = None if self._shown else first_failure(self.folder, range(self.world))
            if failure is None:
                return ""
            if failure.code == EXIT_RUN_FAILED and self.world > 1:
                self._crashed_at = self._crashed_at or time.monotonic()
                if time.monotonic() - self._crashed_at < PATIENCE_S:
                    return ""
            return self._describe(failure)

    def final(self) -> tuple[int, str] | None:
        """Once all ranks have ended: the run's exit code, and the message if it was not shown yet.

        None when no rank recorded a failure.
        """
        with self._lock:
            failure = first_failure(self.folder, range(self.world))
            if failure is None:
                return None
            return failure.code, "" if self._shown else self._describe(failure)

    def reason(self) -> str:
        """Why the run failed, whether that was shown or not; empty when no rank recorded it."""
        failure = first_failure(self.folder, range(self.world))
        return failure.message if failure else ""

    def settle(self, rank: int, text: str) -> str:
        """Records why a rank failed that could not do so itself; returns the message to show.

        Ranks on other machines learn of the failure by the record.
        """
        with self._lock:
            self._shown = True
            self.folder.record_error(rank, EXIT_RUN_FAILED, text)
        return f"error: {text}\n"

    def forget(self) -> None:
        """Before the ranks start again: forgets the failures, on disk too."""
        with self._lock:
            self.folder.forget_failures()
            self._shown, self._crashed_at = False, None

    def _describe(self, failure: Failure) -> str:
        self._shown = True
        code, message, rank = failure
        if code == EXIT_RUN_FAILED:
            log = self.folder.log(rank)
            return f"error: {message.rstrip()}\nrank {rank} failed; its log is {log}\n"
        return f"error: {f'rank {rank}: ' if self.world > 1 else ''}{message}\n"
