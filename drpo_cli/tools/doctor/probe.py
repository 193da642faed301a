"""Asks another process what would end or hang this one: a broken import, ranks that wait."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drpo_cli import processes

_RAISED = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt|Exit|Failure)\b.*", re.MULTILINE)
_MOST = 300


@dataclass(frozen=True)
class Answer:
    """What a probe said before it ended.

    said       its lines of JSON, merged, later ones over earlier ones
    complaint  all it wrote to stderr
    status     its exit status, −(signal number); None where the deadline ended it
    """

    said: Mapping[str, Any]
    complaint: str
    status: int | None

    @property
    def fine(self) -> bool:
        """Whether it came to its end."""
        return self.status == 0

    @property
    def reason(self) -> str:
        """Why it did not: the first error of its traceback, which caused the others."""
        if self.status is None:
            return "did not end in time, and was killed"
        if self.status < 0:
            return f"died of signal {signal.Signals(-self.status).name}"
        raised, lines = _RAISED.search(self.complaint), self.complaint.strip().splitlines()
        text = raised.group().strip() if raised else (lines[-1:] or ["it said nothing"])[0]
        return text if len(text) <= _MOST else f"{text[: _MOST - 1]}…"


def ask(module: str, *arguments: str, seconds: float, **environment: str) -> Answer:
    """Runs a module in a process of its own, and ends it and its group after so many seconds."""
    command = processes.python(module, *arguments)
    done = processes.capture(command, seconds=seconds, environment=environment)
    return Answer(_merged(done.out), done.err, done.code)


def _merged(out: str) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for line in out.splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # a library's own words
        if isinstance(record, dict):
            said |= record
    return said
