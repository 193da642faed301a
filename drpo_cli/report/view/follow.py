"""Follows a run by its files: metrics, events, and the newest step's best and worst sample."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from drpo_cli.runs import events as progress
from drpo_cli.runs.alerts import Alert, Watch
from drpo_cli.runs.events import ENDED
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.metrics import EventRecord, SampleRecord, State, StepMetrics, failed_calls
from drpo_cli.runs.reader import Damage, decode, open_regular
from drpo_cli.runs.records import Tail
from drpo_cli.runs.saved import SavedRun

PACE = 50  # steps whose mean duration gives the time left
FIRST, MOST = 2**18, 2**23  # bytes read from the end of the samples


@dataclass
class Fresh:
    """What one look found: steps and events that no earlier look has returned."""

    steps: list[StepMetrics] = field(default_factory=list)
    events: list[EventRecord] = field(default_factory=list)


@dataclass(frozen=True)
class Extremes:
    """Best and worst record of a step's samples; the same one where only one has a score."""

    step: int
    best: SampleRecord
    worst: SampleRecord


class Followed:
    """One run; each `look` reads only what is new."""

    def __init__(self, folder: RunFolder):
        self.folder = folder
        self.metrics: list[StepMetrics] = []
        self.events: list[EventRecord] = []
        self.samples: Extremes | None = None
        self.state: State = "starting"
        self.over = False
        self.failed: Counter[tuple[str, str]] = Counter()
        self.skipped = {"samples": 0, "updates": 0}
        self.notes: list[str] = []
        self.name, self.title, self.total = folder.path.name, "", 0
        self._samples_seen = (0, 0)
        self._spec_notes: Sequence[str] = ()
        self._watch = Watch()
        self._metrics = Tail(folder.metrics, StepMetrics)
        self._events = Tail(folder.events, EventRecord)

    def look(self) -> Fresh:
        """Reads what is new, and updates everything."""
        records = self._metrics.new()
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
        self.notes = [*self._spec_notes]
        for tail in (self._metrics, self._events):
            self.notes += tail.damage.describe(tail.path.name, being_written=not self.over)
        return Fresh(records, events)

    @property
    def done(self) -> int:
        """The last step on record; 0 where there is none."""
        return self.metrics[-1]["step"] if self.metrics else 0

    @property
    def last(self) -> StepMetrics:
        """Metrics of the last step; only its number before the first."""
        return self.metrics[-1] if self.done else {"step": 0}

    @property
    def pace(self) -> float | None:
        """Mean seconds per step over the last steps."""
        recent = [r.get("seconds", {}).get("step") for r in self.metrics[-PACE:]]
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
        return max(0.0, (ended or until) - began)

    def remaining(self) -> float | None:
        """Seconds until the last step at the current pace; None unless the run is running."""
        if self.state != "running" or self.pace is None or self.total < self.done:
            return None
        return (self.total - self.done) * self.pace

    def current_alerts(self) -> list[Alert]:
        """The alerts that hold at the last step on record."""
        return [alert for alert in self._watch.alerts() if alert.until is None]

    def _add(self, records: list[StepMetrics]) -> None:
        self.metrics += records
        for record in records:
            self._watch.add(record)
            self.failed.update(failed_calls(record))
            self.skipped["samples"] += record.get("skipped_samples", 0)
            self.skipped["updates"] += int(record.get("skipped_updates") or 0)

    def _read_samples(self) -> None:
        # They are written after the step's metrics, and only the file's end is read
        try:
            status = self.folder.samples.stat()
        except OSError:
            return
        if (now := (status.st_ino, status.st_size)) != self._samples_seen:
            self._samples_seen = now
            self.samples = find_extremes(self.folder.samples)

    def _read_spec(self) -> None:
        run = SavedRun(self.folder)
        self.total = run.steps or 0
        self._spec_notes = run.notes
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
        step = records[-1]["step"] if records else None
        own = [(s, r) for r in records if r["step"] == step and (s := r.get("reward")) is not None]
        begun = whole or (bool(records) and records[0]["step"] != step)
        if begun or wanted >= MOST:
            break
        wanted *= 4
    if not own or step is None:
        return None
    ranked = [f(own, key=lambda scored: scored[0])[1] for f in (max, min)]
    return Extremes(step, *ranked)


def _read_end(path: Path, wanted: int) -> tuple[list[SampleRecord], bool]:
    # The whole lines among the last bytes, and whether these are the whole file
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            begin = max(0, size - wanted)
            file.seek(begin)
            lines = file.read(size - begin).split(b"\n")
    except OSError:
        return [], True
    found = [decode(line, SampleRecord, 0, Damage()) for line in lines[1 if begin else 0 : -1]]
    return [record for record in found if record is not None], begin == 0
