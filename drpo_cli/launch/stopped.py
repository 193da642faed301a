"""Finds ranks that a SIGSTOP halts: the others wait for them, up to two hours, without a word."""

from __future__ import annotations

import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil

EVERY_S = 1.0
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class StoppedRanks:
    """Reports ranks among this process's children that are stopped, and those that go on.

    A stopped rank cannot act on the signal that ends it, neither when its user stops the run nor
    when another rank fails: once such a signal waits for it, it is continued.
    """

    def __init__(self) -> None:
        self._stopped: dict[int, str] = {}
        self._looked_at = time.monotonic()

    def look(self) -> list[str]:
        """What changed since the last look."""
        if time.monotonic() - self._looked_at < EVERY_S:
            return []
        self._looked_at = time.monotonic()
        now = dict(_find())
        new, old = now.keys() - self._stopped.keys(), self._stopped.keys() - now.keys()
        said = [
            f"rank {now[pid]} is stopped (SIGSTOP), and the run waits for it; "
            f"`kill -CONT {pid}` continues it"
            for pid in sorted(new)
        ]
        said += [f"rank {self._stopped[pid]} is not stopped any more" for pid in sorted(old)]
        self._stopped = now
        for pid in now:
            if _must_end(pid):
                with suppress(ProcessLookupError):
                    psutil.Process(pid).send_signal(signal.SIGCONT)
        return said


def _find() -> list[tuple[int, str]]:
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if child.status() == psutil.STATUS_STOPPED and "RANK" in (of := child.environ()):
                found.append((child.pid, of["RANK"]))
    return found


def _must_end(pid: int) -> bool:
    """Whether a signal that asks the process to end waits for it (Linux; elsewhere False)."""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        pending = sum(int(bits, 16) for bits in re.findall(r"^ShdPnd:\s*(\w+)", text, re.M))
        return any(pending >> (number - 1) & 1 for number in _ENDING)
    return False
