"""Why ranks of a run failed, by the word they left: said as soon as it is there, and once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable

from drpo_cli.errors import EXIT_RUN_FAILED
from drpo_cli.runs.folder import RunFolder

PATIENCE_S = 1.0  # a crash may be what another rank's mistake does to its neighbour


def first_word(folder: RunFolder, ranks: Iterable[int]) -> tuple[int, str, int] | None:
    """Code, message and rank of the first failure that left word, a user's mistake before a crash.

    The first is the cause; what the other ranks say then is that a neighbour is gone.
    """
    left = [
        (json.loads(folder.error(rank).read_text()), folder.error(rank).stat().st_mtime, rank)
        for rank in ranks
        if folder.error(rank).is_file()
    ]
    if not left:
        return None
    record, _, rank = min(left, key=lambda item: (-item[0]["code"], item[1]))
    return int(record["code"]), str(record["message"]), rank


class Failures:
    """The failures of a run on `world` ranks, each explained once."""

    def __init__(self, folder: RunFolder, world: int):
        self.folder = folder
        self.world = world
        self._said = False
        self._one_at_a_time = threading.Lock()
        self._crashed: float | None = None

    def new(self) -> str:
        """What to say now, if a rank has failed and it was not said before; empty else.

        A crash waits a moment for the user's mistake that it may be the echo of.
        """
        with self._one_at_a_time:
            word = None if self._said else first_word(self.folder, range(self.world))
            if word is None:
                return ""
            if word[0] == EXIT_RUN_FAILED and self.world > 1:
                self._crashed = self._crashed or time.monotonic()
                if time.monotonic() - self._crashed < PATIENCE_S:
                    return ""
            return self._explained(*word)

    def last(self) -> tuple[int, str] | None:
        """Exit code, and what is still to be said, once no rank is left; None without a word."""
        with self._one_at_a_time:
            word = first_word(self.folder, range(self.world))
            if word is None:
                return None
            return word[0], "" if self._said else self._explained(*word)

    def _explained(self, code: int, message: str, rank: int) -> str:
        self._said = True
        if code == EXIT_RUN_FAILED:
            log = self.folder.log(rank)
            return f"error: {message.rstrip()}\nrank {rank} failed; its log is {log}\n"
        return f"error: {f'rank {rank}: ' if self.world > 1 else ''}{message}\n"
