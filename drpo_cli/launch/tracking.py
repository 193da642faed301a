"""Starts the process that follows a run for its trackers, and ends it in bounded time."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from drpo_cli import processes
from drpo_cli.errors import UserError
from drpo_cli.launch import launch_log
from drpo_cli.launch.follower import State, list_trackers
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.metrics import Stepped
from drpo_cli.runs.reader import read
from drpo_cli.runs.spec import read_spec

QUIET_S = 2.0  # a longer wait is announced
GRACE_S = 5.0  # for the follower to kill what is late and to report it


@contextmanager
def follow_run(folder: RunFolder, seconds: float | None = None) -> Iterator[None]:
    """Follows the run that the body trains in the folder, for the trackers of its spec.

    Nothing that they do reaches the body. Afterwards each tracker has its `finish_s` seconds, or
    `seconds`, for the rest; one line per tracker says what could not be sent.
    """
    tables = list_trackers(read_spec(folder))
    if not tables:
        yield
        return
    ours, theirs = socket.socketpair()
    launch_log(folder).parent.mkdir(parents=True, exist_ok=True)
    own = (folder.path, theirs.fileno(), *([seconds] if seconds else []))
    follower = processes.start(
        processes.python("drpo_cli.launch.follower", *own),
        log=launch_log(folder),
        environment={"OMP_NUM_THREADS": "1"},
        inherit=[theirs.fileno()],
    )
    theirs.close()
    try:
        yield
    finally:
        with ours:
            _finish(folder, tables, seconds, follower, ours)


def send(path: Path, seconds: float) -> int:
    """Sends what the trackers of an ended run have not been sent; returns 1 when some is left.

    Raises UserError when there is no such run, it names no tracker, or it is still training.
    """
    folder = RunFolder(path)
    if not folder.exists():
        raise UserError(f"{path} is not a run folder: it has no spec.toml")
    names = [table["name"] for table in list_trackers(read_spec(folder))]
    if not names:
        raise UserError(f"{folder.spec} names no [[tracker]]", "add one there (docs/trackers.md)")
    if folder.in_use():
        raise UserError(f"{path} is training, and its trackers follow it", "wait for it to end")
    with follow_run(folder, seconds):
        sys.stderr.write(f"sending to {', '.join(names)}, at most {seconds:g} s …\n")
    left = [count_unsent(folder, name) for name in names]
    for name, (missing, steps) in zip(names, left, strict=True):
        if not missing:
            sys.stdout.write(f"{name} has all {steps} steps\n")
    return int(any(missing for missing, _ in left))


def count_unsent(folder: RunFolder, name: str) -> tuple[int, int]:
    """Recorded steps that a tracker has not been sent, and all recorded steps."""
    sent = State.read(folder.tracker(name)).step
    steps = [record["step"] for record in read(folder.metrics, Stepped)]
    return sum(step > sent for step in steps), len(steps)


def _finish(
    folder: RunFolder,
    tables: list[dict[str, Any]],
    seconds: float | None,
    follower: processes.Child,
    ours: socket.socket,
) -> None:
    began, limit = time.monotonic(), seconds or max(table["finish_s"] for table in tables)
    try:
        with suppress(OSError):  # it is gone already
            ours.shutdown(socket.SHUT_WR)
        code = processes.wait(follower, min(QUIET_S, limit))
        if code is None:
            names = ", ".join(table["name"] for table in tables)
            sys.stderr.write(f"waiting for trackers ({names}), at most {limit:g} s …\n")
            code = processes.wait(follower, began + limit + GRACE_S - time.monotonic())
    finally:
        if follower.returncode is None:
            processes.kill_group(follower.pid)  # its forks die with it
            follower.wait()
    if code == 0:
        ends = json.loads(ours.recv(2**16))
    else:
        reason = (
            f"the trackers' process ended with code {follower.returncode} ({launch_log(folder)})"
        )
        ends = {table["name"]: reason for table in tables}
    for table in tables:
        _warn(folder, table["name"], ends)


def _warn(folder: RunFolder, name: str, ends: Mapping[str, str]) -> None:
    left, steps = count_unsent(folder, name)
    if not left and not ends[name]:
        return
    state = State.read(folder.tracker(name))
    why = f"; {ends[name]}" if ends[name] else ""
    if state.failures:
        why += f"; it failed {state.failures} times, last with {state.error}"
    lost = f"{left} of {steps} steps were not sent" if left else "its last steps may be missing"
    again = f"; send them with `drpo track {folder.path}`" if left else ""
    sys.stderr.write(
        f"warning: tracker {name}: {lost}{why}; its log is {folder.tracker_log(name)}{again}\n"
    )
