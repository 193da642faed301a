"""What a run says once, and by that and its locks where it stands; loads no plugin."""

from __future__ import annotations

import time
import tomllib
from typing import Literal

from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.records import Records, Tail

State = Literal["starting", "running", "finished", "stopped", "failed"]


ENDED = ("finished", "stopped", "failed")


def say(folder: RunFolder, text: str, state: State | None = None, **more: int) -> None:
    """Appends to events.jsonl, with the state that the run is in from now on if it changes.

    `resumed` is the step a run goes on after, `rank` the rank that failed.
    """
    changed = {"state": state} if state else {}
    Records(folder.events).append({"time": time.time(), "text": text, **changed, **more})


def say_if_room(folder: RunFolder, text: str, state: State | None = None, **more: int) -> str:
    """`say` for what must not end because of it: what to show instead on a full disk, or empty."""
    try:
        say(folder, text, state, **more)
    except OSError as error:
        return f"{text} ({folder.events}: {error.strerror})\n"
    return ""


def one_line(message: str) -> str:
    """A user's mistake as it is, of a traceback the line that says what was raised."""
    lines = [line.strip() for line in message.splitlines() if line.strip()] or [""]
    return lines[-1] if lines[0].startswith("Traceback") else " ".join(lines)


def state(folder: RunFolder) -> State:
    """Where the run stands, from its files and locks. A run that was killed has failed."""
    in_use = folder.in_use()  # before the events: a run says its last word, then lets go
    said: list[State] = [event["state"] for event in Tail(folder.events).new() if "state" in event]
    if not said:
        return _state_by_metrics(folder, in_use)
    if said[-1] in ("starting", "running") and not in_use:
        return "failed"
    return said[-1]


def steps(folder: RunFolder) -> int | None:
    """Steps the run is to take by its resolved spec; None where the spec does not say."""
    try:
        spec = tomllib.loads(folder.spec.read_text())
    except (OSError, ValueError):
        return None
    wanted = spec.get("run", {}).get("steps")
    return wanted if isinstance(wanted, int) else None


def _state_by_metrics(folder: RunFolder, in_use: bool) -> State:
    # A run of an older version has no events.
    records = Tail(folder.metrics).new()
    if in_use:
        return "running" if records else "starting"
    if any(folder.path.glob("logs/*.error")):
        return "failed"
    done = records[-1].get("step") if records else None
    return "finished" if done is not None and done == steps(folder) else "stopped"
