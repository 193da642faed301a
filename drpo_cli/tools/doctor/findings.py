"""What a check found, and what is said where it could not be made."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from drpo_cli.errors import UserError

Status = Literal["ok", "warning", "wrong"]
BROKEN = (UserError, OSError, ImportError, ValueError, RuntimeError, subprocess.SubprocessError)
"""What a check may meet on a machine that is not as it should be."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: what was looked at, how it is, what there is, and what to do."""

    check: str
    status: Status
    found: str
    fix: str = ""


def ok(check: str, found: str) -> Finding:
    """As it should be."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, fix: str) -> Finding:
    """A run works, but slowly, in part, or untested."""
    return Finding(check, "warning", found, fix)


def wrong(check: str, found: str, fix: str) -> Finding:
    """A run does not work."""
    return Finding(check, "wrong", found, fix)


def looked(check: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What `look` finds; where it cannot look, a warning with the reason."""
    try:
        yield from look()
    except BROKEN as error:
        yield warning(
            check,
            f"could not be looked at: {type(error).__name__}: {error}",
            "mend what the message names; a run may meet it too",
        )
