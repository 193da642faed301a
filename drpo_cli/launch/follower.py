"""Sends a run's records to its trackers: `python -m drpo_cli.launch.follower FOLDER SOCKET …`.

Consumes      `metrics.jsonl` as it grows, and the `[[tracker]]` tables of `spec.toml`
Waits for     new records, and the servers of the trackers
Unblocked by  the launcher, which closes its side of the socket when the run has ended, or dies
Produces      the trackers' runs, `trackers/NAME/state.json`, `logs/tracker-NAME.log`, and over the
              socket how each tracker ended

The run does not depend on it and never waits for it. Each tracker has a fork of this process: its
client may hang, crash, or have global state (the current run of wandb, the folder of trackio), and
the other trackers must not notice. Once the run has ended, a tracker has its `finish_s` seconds;
then it is killed with everything that its client started. A step is never sent twice: a resumed
run continues the tracker's run, and the steps that it repeats stay as they were first sent.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import msgspec
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential

from drpo_cli import plugins, processes
from drpo_cli.errors import UserError
from drpo_cli.runs.alerts import Watch
from drpo_cli.runs.events import say_if_room
from drpo_cli.runs.folder import RunFolder, write_whole
from drpo_cli.runs.metrics import StepMetrics
from drpo_cli.runs.reader import describe_error, read_text
from drpo_cli.runs.records import Tail
from drpo_cli.runs.spec import read_spec
from drpo_cli.trackers import TrackedRun, Tracker, flatten

POLL_S = 0.5
LONGEST_WAIT_S = 60.0  # between two tries
LAST_WAIT_S = 1.0  # between two tries, once the run has ended
NICE = 10


@dataclass
class State:
    """What is known of a tracker from one start of a run to the next.

    id        what the tracker calls the run; None before it was first opened
    step      the last step that it was sent; −1 before the first
    failures  how often it raised an error
    error     the last error
    """

    id: str | None = None
    step: int = -1
    failures: int = 0
    error: str = ""

    @classmethod
    def read(cls, folder: Path) -> State:
        """What `write` wrote; a fresh state where there is no file.

        Raises UserError when the file is damaged.
        """
        try:
            return msgspec.json.decode(read_text(folder / "state.json"), type=cls)
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"{folder / 'state.json'} {describe_error(error)}",
                "remove it, and the tracker gets a new run with all steps",
            ) from error

    def write(self, folder: Path) -> None:
        """Replaces the file in one move."""
        write_whole(folder / "state.json", json.dumps(asdict(self)))


def list_trackers(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tracker tables of a resolved spec, each with its name and `finish_s`."""
    return [
        {"name": plugins.short_name(table["type"]), "finish_s": 30.0, **table}
        for table in spec.get("tracker", [])
    ]


class Sender:
    """Sends records to one tracker, and opens it again after an error."""

    def __init__(self, folder: RunFolder, table: Mapping[str, Any], end: socket.socket):
        self._run = folder
        self._table = table
        self._folder = folder.tracker(table["name"])
        self._end = end
        self._tracker: Tracker | None = None
        self._event_written = False
        self.state = State.read(self._folder)
        self._retry = Retrying(
            wait=wait_exponential(max=LONGEST_WAIT_S),
            retry=retry_if_exception_type(Exception),
            sleep=self._pause,
            before_sleep=self._record_failure,
        )

    def follow(self) -> None:
        """Sends what the run records until it has ended and everything is sent."""
        tail, watch = Tail(self._run.metrics, StepMetrics), Watch()
        while True:
            over = has_ended(self._end)  # before reading, so that the last records are read
            records = tail.new()
            if tail.started_over:
                watch = Watch()
            for record in records:
                self._send(record, watch)
            if over:
                break
            has_ended(self._end, POLL_S)
        if self._tracker is not None:
            self._tracker.close()

    def _send(self, record: Mapping[str, Any], watch: Watch) -> None:
        """Sends a step that was not sent before, and the alerts that begin with it."""
        alerts, step = watch.add(record), record["step"]
        if step <= self.state.step:
            return
        self._retry(lambda: self._open().log(step, flatten(record)))
        self.state.step = step
        self.state.write(self._folder)
        for alert in alerts:
            self._retry(self._send_alert, step, alert.kind, f"{alert.reason}; {alert.suggestion}")

    def _send_alert(self, step: int, title: str, text: str) -> None:
        tracker = self._open()
        if hasattr(tracker, "alert"):
            tracker.alert(step, title, text)

    def _open(self) -> Tracker:
        if self._tracker is None:
            spec = read_spec(self._run)
            plugin = plugins.load("trackers", self._table["type"])
            config = {key: value for key, value in self._table.items() if key != "type"}
            run = TrackedRun(
                name=spec["run"]["name"],
                folder=self._folder,
                runs=self._run.path.parent,
                spec=spec,
                id=self.state.id,
            )
            self._tracker = plugin.entry(plugin.Config.model_validate(config), run)
            self.state.id = str(getattr(self._tracker, "id", ""))
            self.state.write(self._folder)
        return self._tracker

    def _pause(self, seconds: float) -> None:
        if has_ended(self._end):
            time.sleep(min(seconds, LAST_WAIT_S))
        else:
            has_ended(self._end, seconds)

    def _record_failure(self, call: RetryCallState) -> None:
        assert call.outcome is not None
        error = call.outcome.exception()
        assert error is not None
        self._tracker = None
        self.state.failures += 1
        self.state.error = f"{type(error).__name__}: {error}".partition("\n")[0]
        self.state.write(self._folder)
        traceback.print_exception(error)
        if not self._event_written:
            self._event_written = True
            name = self._table["name"]
            log = self._run.tracker_log(name).relative_to(self._run.path)
            text = f"tracker {name} fails and is tried again: {self.state.error} ({log})"
            say_if_room(self._run, text)


def has_ended(end: socket.socket, seconds: float | None = 0.0) -> bool:
    """Whether the run has ended, or ends within that time; None waits as long as it takes."""
    return bool(select.select([end], [], [], seconds)[0])


def send(folder: RunFolder, table: Mapping[str, Any], end: socket.socket) -> None:
    """Follows the run for one tracker, in a fork."""
    name = table["name"]
    processes.print_to(folder.tracker_log(name))
    folder.tracker(name).mkdir(parents=True, exist_ok=True)
    with (folder.tracker(name) / ".lock").open("wb") as lock:
        with suppress(OSError):  # a file system without locks
            # The trackers of the run that this one continues may still send
            fcntl.flock(lock, fcntl.LOCK_EX)
        Sender(folder, table, end).follow()


def main(folder: RunFolder, end: socket.socket, seconds: float | None) -> None:
    """Follows the run for all its trackers; each has `seconds`, or its `finish_s`, at the end."""
    with suppress(OSError):
        os.nice(NICE)
    tables = list_trackers(read_spec(folder))
    senders = [processes.fork(send, folder, table, end) for table in tables]
    has_ended(end, None)
    began = time.monotonic()
    ends = {
        table["name"]: _finish(sender, began, seconds or table["finish_s"])
        for table, sender in zip(tables, senders, strict=True)
    }
    with suppress(OSError):  # the launcher is gone
        end.sendall(json.dumps(ends).encode())


def _finish(sender: ForkProcess, began: float, seconds: float) -> str:
    """Waits for a fork, and kills it when its time is up; returns what went wrong."""
    sender.join(max(0.0, began + seconds - time.monotonic()))
    if sender.exitcode is None:
        assert sender.pid is not None
        processes.kill_group(sender.pid)
        sender.join()
        return f"it did not end within {seconds:g} s"
    return f"its process ended with code {sender.exitcode}" if sender.exitcode else ""


if __name__ == "__main__":
    main(
        RunFolder(Path(sys.argv[1])),
        socket.socket(fileno=int(sys.argv[2])),
        float(sys.argv[3]) if sys.argv[3:] else None,
    )
