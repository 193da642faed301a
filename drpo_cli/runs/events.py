"""What a run writes once, and its state by that and by its locks; loads no plugin."""

from __future__ import annotations

import time

from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.metrics import EventRecord, State, Stepped
from drpo_cli.runs.reader import read
from drpo_cli.runs.records import Records
from drpo_cli.runs.spec import read_steps

ENDED = ("finished", "stopped", "failed")


def say(folder: RunFolder, text: str, state: State | None = None, **more: int) -> None:
    """Appends to events.jsonl; `state` is the run's new state, if it changes.

    `resumed` is the step after which a run continues, `rank` the rank that failed.
    """
    changed = {"state": state} if state else {}
    Records(folder.events).append({"time": time.time(), "text": text, **changed, **more})


def say_if_room(folder: RunFolder, text: str, state: State | None = None, **more: int) -> str:
    """Calls `say`; on a full disk it returns the text to show instead, else an empty string."""
    try:
        say(folder, text, state, **more)
    except OSError as error:
        return f"{text} ({folder.events}: {error.strerror})\n"
    return ""


def one_line(message: str) -> str:
    """Shortens a message to one line; of a traceback, the line with the exception."""
    lines = [line.strip() for line in message.splitlines() if line.strip()] or [""]
    return lines[-1] if lines[0].startswith("Traceback") else " ".join(lines)


def state(folder: RunFolder) -> State:
    """Reads the run's state from its files and locks. A run that was killed has failed."""
    in_use = folder.in_use()  # before the events: a run writes its last event, then unlocks
    said = [event["state"] for event in read(folder.events, EventRecord) if "state" in event]
    if not said:
        return _state_by_metrics(folder, in_use)
    if said[-1] in ("starting", "running") and not in_use:
        return "failed"
    return said[-1]


def _state_by_metrics(folder: RunFolder, in_use: bool) -> State:
    # A run of an older version has no events.
    records = read(folder.metrics, Stepped)
    if in_use:
        return "running" if records else "starting"
    if any(folder.path.glob("logs/*.error")):
        return "failed"
    return "finished" if records and records[-1]["step"] == read_steps(folder) else "stopped"
