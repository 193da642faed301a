"""One tracker of a run: `python -m drpo_cli.launch.tracker_process FOLDER NAME PIPE SECONDS`.

It follows metrics.jsonl, so a run knows nothing of it and never waits for it. The pipe says when
the run has ended, by a byte or by the end of whoever started this; from then on it has so many
seconds. A resumed run opens what the tracker has of it again, and does not send a step twice: what
it does over again after its checkpoint stays there as it was first sent.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential

from drpo_cli import plugins
from drpo_cli.launch.tracker_state import State, spec_of, tables
from drpo_cli.runs.alerts import Watch
from drpo_cli.runs.events import say_if_room
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.records import Tail
from drpo_cli.trackers._contract import TrackedRun, flat

POLL_S = 0.5
LONGEST_WAIT_S = 60.0  # between two tries
LAST_WAIT_S = 1.0  # the same once the run has ended
NICE = 10
GRACE_S = 5.0  # for the launcher to come first: it says what was not sent


class End:
    """Knows whether the run has ended; from then on this process has a bounded time."""

    def __init__(self, pipe: int, seconds: float):
        self._pipe = pipe
        self._seconds = seconds
        self._here = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def here(self) -> bool:
        """Whether the run has ended."""
        return self._here.is_set()

    def wait(self, seconds: float) -> None:
        """Returns after that time, or when the run ends."""
        if self.here:
            time.sleep(min(seconds, LAST_WAIT_S))
        else:
            self._here.wait(seconds)

    def _listen(self) -> None:
        # A thread, since a tracker may hang where nobody looks at the pipe or the clock.
        os.read(self._pipe, 1)
        self._here.set()
        time.sleep(self._seconds + GRACE_S)
        os.killpg(0, signal.SIGKILL)  # the group is this process and what its client started


class Sender:
    """Hands records to a tracker, opening it as often as it takes."""

    def __init__(self, folder: RunFolder, table: dict[str, Any], end: End):
        self._own = folder.tracker(table["name"])
        self._run = folder
        self._table = table
        self._tracker: Any = None
        self._said = False
        self._watch = Watch()
        self.state = State.read(self._own)
        self._retrying = Retrying(
            wait=wait_exponential(max=LONGEST_WAIT_S),
            retry=retry_if_exception_type(Exception),
            sleep=end.wait,
            before_sleep=self._failed,
        )

    def start_over(self) -> None:
        """The next record is the first one again."""
        self._watch = Watch()

    def take(self, record: Mapping[str, Any]) -> None:
        """Sends a step that was not sent before, and the alerts that begin with it."""
        alerts, step = self._watch.add(record), record.get("step")
        if not isinstance(step, int) or step <= self.state.step:
            return
        self._retrying(self._log, step, flat(record))
        self.state.step = step
        self.state.write(self._own)
        for alert in alerts:
            self._retrying(self._alert, step, alert.kind, f"{alert.reason}; {alert.suggestion}")

    def close(self) -> None:
        """Waits for the tracker's own end, if it was ever opened."""
        if self._tracker is not None:
            self._tracker.close()

    def _log(self, step: int, values: dict[str, float]) -> None:
        self._opened().log(step, values)

    def _alert(self, step: int, title: str, text: str) -> None:
        tracker = self._opened()
        if hasattr(tracker, "alert"):
            tracker.alert(step, title, text)

    def _opened(self) -> Any:
        if self._tracker is None:
            spec = spec_of(self._run)
            plugin = plugins.load("trackers", self._table["type"])
            options = {k: v for k, v in self._table.items() if k != "type"}
            run = TrackedRun(
                name=spec["run"]["name"],
                folder=self._own,
                runs=self._run.path.parent,
                spec=spec,
                id=self.state.id,
            )
            self._tracker = plugin.entry(plugin.Config.model_validate(options), run)
            self.state.id = str(getattr(self._tracker, "id", ""))
            self.state.write(self._own)
        return self._tracker

    def _failed(self, call: RetryCallState) -> None:
        assert call.outcome is not None
        error = call.outcome.exception()
        assert error is not None
        self._tracker = None
        self.state.failures += 1
        self.state.error = f"{type(error).__name__}: {error}".partition("\n")[0]
        self.state.write(self._own)
        traceback.print_exception(error)
        if not self._said:
            self._said = True
            name = self._table["name"]
            log = self._run.tracker_log(name).relative_to(self._run.path)
            say_if_room(
                self._run, f"tracker {name} fails and is tried again: {self.state.error} ({log})"
            )


def main(folder: RunFolder, name: str, pipe: int, seconds: float) -> None:
    """Follows the run until it ends and everything is sent."""
    with suppress(OSError):
        os.nice(NICE)
    table = next(table for table in tables(spec_of(folder)) if table["name"] == name)
    folder.tracker(name).mkdir(parents=True, exist_ok=True)
    end, tail = End(pipe, seconds), Tail(folder.metrics)
    with (folder.tracker(name) / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a run that was killed may have left one behind
        sender = Sender(folder, table, end)
        while True:
            over = end.here  # before reading: what the run wrote last is read after its end
            records = tail.new()
            if tail.started_over:
                sender.start_over()
            for record in records:
                sender.take(record)
            if over:
                break
            end.wait(POLL_S)
        sender.close()


if __name__ == "__main__":
    main(RunFolder(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
