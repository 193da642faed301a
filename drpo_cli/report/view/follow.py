"""Follows a run by its files: metrics, events, and the newest step's best and worst sample."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from drpo_cli.runs import events as progress
from drpo_cli.runs.alerts import Alert, Watch
from drpo_cli.runs.events import ENDED
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.metrics import failed_calls
from drpo_cli.runs.records import Tail, parse_line
from drpo_cli.runs.saved import SavedRun

Record = dict[str, Any]
PACE = 50  # steps whose mean duration gives the time left
FIRST, MOST = 2**18, 2**23  # bytes read from the end of the samples


@dataclass
class Fresh:
    """What one look found: steps and events that no earlier look has returned."""

    steps: list[Record] = field(default_factory=list)
    events: list[Record] = field(default_factory=list)


@dataclass(frozen=True)
class Extremes:
    """Best and worst record of a step's samples; the same one where only one has a score."""

    step: int
    best: Mapping[str, Any]
    worst: Mapping[str, Any]


class Followed:
    """One run; each `look` reads only what is new."""

    def __init__(self, folder: RunFolder):
        self.folder = folder
        self.metrics: list[Record] = []
        self.events: list[Record] = []
        self.samples: Extremes | None = None
        self.state: progress.State = "starting"
        self.over = False
        self.failed: Counter[tuple[str, str]] = Counter()
        self.skipped = {"samples": 0, "updates": 0}
        self.name, self.title, self.total = folder.path.name, "", 0
        self._samples_seen = (0, 0)
        self._watch = Watch()
        self._metrics = Tail(folder.metrics)
        self._events = Tail(folder.events)

    def look(self) -> Fresh:
        """Reads what is new, and updates everything."""
        records = [r for r in self._metrics.new() if isinstance(r.get("step"), int)]
        events = self._events.new()
        self.events += events
        if not self.title or any(event.get("state") == "starting" for event in events):
            self._read_spec()
        if self._metrics.started_over:
            resumed = [e["resumed"] for e in self.events if "resumed" in e]
            after = resumed[-1] if resumed else self.done
            self.metrics, self.failed, self.skipped = [], Counter(), {"samples": 0, "updates": 0}
            self._watch = Watch()
            self._add(records)
            records = [record for record in records if record["step"] > after]
        else:
            self._add(records)
        in_use = self.folder.in_use()
        self.state = progress.state(self.folder)
        self.over = self.state in ENDED and not in_use
        self._read_samples()
        return Fresh(records, events)

    @property
    def done(self) -> int:
        """The last step on record; 0 where there is none."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    @property
    def last(self) -> Record:
        """Metrics of the last step; empty before the first."""
        return self.metrics[-1] if self.done else {}

    @property
    def pace(self) -> float | None:
        """Mean seconds per step over the last steps."""
        recent = [(r.get("seconds") or {}).get("step") for r in self.metrics[-PACE:]]
        seconds = [value for value in recent if value is not None]
        return sum(seconds) / len(seconds) if seconds else None

    def elapsed(self) -> float | None:
        """Seconds since the last start of the run, until now or until it ended."""
        began, ended = None, None
        for event in self.events:
            if event.get("state") in ENDED:
                ended = event["time"]
            elif event.get("state") == "starting" and (began is None or ended is not None):
                began, ended = event["time"], None
        if began is None:
            return None
        until = self.events[-1]["time"] if self.state in ENDED else time.time()
        return max(0.0, float((ended or until) - began))

    def remaining(self) -> float | None:
        """Seconds until the last step at the current pace; None unless the run is running."""
        if self.state != "running" or self.pace is None or self.total < self.done:
            return None
        return (self.total - self.done) * self.pace

    def current_alerts(self) -> list[Alert]:
        """The alerts that hold at the last step on record."""
        return [alert for alert in self._watch.alerts() if alert.until is None]

    def describe_damage(self) -> str:
        """Says which lines of metrics.jsonl are skipped; empty where none is."""
        broken = self._metrics.broken + (self._metrics.cut and self.over)
        if not broken:
            return ""
        lines = "1 line is" if broken == 1 else f"{broken} lines are"
        return f"metrics.jsonl: {lines} not whole and skipped"

    def _add(self, records: list[Record]) -> None:
        self.metrics += records
        for record in records:
            self._watch.add(record)
            self.failed.update(failed_calls(record))
            self.skipped["samples"] += record.get("skipped_samples") or 0
            self.skipped["updates"] += record.get("skipped_updates") or 0

    def _read_samples(self) -> None:
        # They are written after the step's metrics, and only the file's end is read
        try:
            status = self.folder.samples.stat()
        except FileNotFoundError:
            return
        if (now := (status.st_ino, status.st_size)) != self._samples_seen:
            self._samples_seen = now
            self.samples = find_extremes(self.folder.samples)

    def _read_spec(self) -> None:
        run = SavedRun(self.folder)
        self.total = run.steps or 0
        if run.spec:
            model, objective = run.spec.get("model", {}), run.spec.get("objective", {})
            path = PurePath(model.get("path", "?"))
            where = PurePath(*path.parts[-2:]) if path.is_absolute() else path
            self.title = f"{objective.get('type', '?')} on {where}"


def find_extremes(path: Path) -> Extremes | None:
    """Best and worst sample of the last step in a file; None where none has a score.

    Of a step that takes more than MOST bytes, only its last samples are read.
    """
    wanted = FIRST
    while True:
        records, whole = _read_end(path, wanted)
        step = records[-1].get("step") if records else None
        own = [r for r in records if r.get("step") == step and r.get("reward") is not None]
        begun = whole or (bool(records) and records[0].get("step") != step)
        if begun or wanted >= MOST:
            break
        wanted *= 4
    if not own or not isinstance(step, int):
        return None
    return Extremes(step, max(own, key=_reward), min(own, key=_reward))


def _reward(record: Mapping[str, Any]) -> float:
    return float(record["reward"])


def _read_end(path: Path, wanted: int) -> tuple[list[Record], bool]:
    # The whole lines among the last bytes, and whether these are the whole file
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            begin = max(0, size - wanted)
            file.seek(begin)
            lines = file.read(size - begin).split(b"\n")
    except FileNotFoundError:
        return [], True
    found = [parse_line(line) for line in lines[1 if begin else 0 : -1]]
    return [record for record in found if record is not None], begin == 0
