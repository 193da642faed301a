"""A run as its files tell it, from one look to the next."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from drpo_cli.report.view.samples import Extremes, newest
from drpo_cli.runs import events as progress
from drpo_cli.runs.alerts import Alert, Watch
from drpo_cli.runs.events import ENDED
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.metrics import failed_calls
from drpo_cli.runs.records import Tail
from drpo_cli.runs.saved import SavedRun

Record = dict[str, Any]
PACE = 50  # steps whose mean says how long one takes


@dataclass
class Fresh:
    """What one look found: steps and events that no look before it did."""

    steps: list[Record] = field(default_factory=list)
    events: list[Record] = field(default_factory=list)


class Followed:
    """One run; `look` reads what is new and nothing twice."""

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
        self._seen = (0, 0)
        self._watch = Watch()
        self._metrics = Tail(folder.metrics)
        self._events = Tail(folder.events)

    def look(self) -> Fresh:
        """Brings everything up to date."""
        records = [r for r in self._metrics.new() if isinstance(r.get("step"), int)]
        events = self._events.new()
        self.events += events
        if not self.title or any(event.get("state") == "starting" for event in events):
            self._read_spec()
        if self._metrics.started_over:
            resumed = [e["resumed"] for e in self.events if "resumed" in e]
            after = resumed[-1] if resumed else self.done
            self._count(records, from_the_top=True)
            records = [record for record in records if record["step"] > after]
        else:
            self._count(records)
        held = self.folder.in_use()
        self.state = progress.state(self.folder)
        self.over = self.state in ENDED and not held
        self._look_at_samples()
        return Fresh(records, events)

    def _look_at_samples(self) -> None:
        # They are written after the step's metrics, and only the file's end is read
        try:
            status = self.folder.samples.stat()
        except FileNotFoundError:
            return
        if (now := (status.st_ino, status.st_size)) != self._seen:
            self._seen = now
            self.samples = newest(self.folder.samples)

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
        """Seconds a step takes, by the last ones."""
        recent = [(r.get("seconds") or {}).get("step") for r in self.metrics[-PACE:]]
        seconds = [value for value in recent if value is not None]
        return sum(seconds) / len(seconds) if seconds else None

    def elapsed(self) -> float | None:
        """Seconds since the run was last started, until now or until it ended."""
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
        """Seconds until the last step, at the pace of the last ones; None unless running."""
        if self.state != "running" or self.pace is None or self.total < self.done:
            return None
        return (self.total - self.done) * self.pace

    def holding(self) -> list[Alert]:
        """The alerts that hold at the last step on record."""
        return [alert for alert in self._watch.alerts() if alert.until is None]

    def unreadable(self) -> str:
        """What of metrics.jsonl is passed over, if anything is."""
        broken = self._metrics.broken + (self._metrics.cut and self.over)
        if not broken:
            return ""
        lines = "1 line is" if broken == 1 else f"{broken} lines are"
        return f"metrics.jsonl: {lines} not whole and passed over"

    def _count(self, records: list[Record], from_the_top: bool = False) -> None:
        if from_the_top:
            self.metrics, self.failed, self.skipped = [], Counter(), {"samples": 0, "updates": 0}
            self._watch = Watch()
        self.metrics += records
        for record in records:
            self._watch.add(record)
            self.failed.update(failed_calls(record))
            self.skipped["samples"] += record.get("skipped_samples") or 0
            self.skipped["updates"] += record.get("skipped_updates") or 0

    def _read_spec(self) -> None:
        saved = SavedRun(self.folder)
        self.total, spec = saved.steps or 0, saved.spec
        if not spec:
            return
        model, objective = spec.get("model", {}), spec.get("objective", {})
        path = PurePath(model.get("path", "?"))
        where = PurePath(*path.parts[-2:]) if path.is_absolute() else path
        self.title = f"{objective.get('type', '?')} on {where}"
