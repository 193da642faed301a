"""Starts a run's trackers beside it, each a process, and ends them in bounded time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drpo_cli.errors import UserError
from drpo_cli.launch.tracker_state import State, spec_of, tables
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.records import Tail

QUIET_S = 2.0  # a wait that is longer is said


@dataclass
class _Follower:
    """One tracker's process, and the pipe by which it hears that the run has ended."""

    name: str
    finish_s: float
    process: subprocess.Popen[bytes]
    pipe: int


@contextmanager
def following(folder: RunFolder, finish_s: float | None = None) -> Iterator[None]:
    """Has the trackers of the folder's spec follow what is recorded while the body runs.

    Whatever they do, the body is not told. Afterwards each has its `finish_s` seconds (or as many
    as are given) to send what is left; what could not be sent is said in one line.
    """
    followers = [_started(folder, table, finish_s) for table in tables(spec_of(folder))]
    try:
        yield
    finally:
        _end(folder, followers)


def send(path: Path, seconds: float) -> int:
    """Sends what the trackers of a run that has ended were not sent; 1 where something is left.

    Raises UserError when there is no such run, it names no tracker, or it is still training.
    """
    folder = RunFolder(path)
    if not folder.exists():
        raise UserError(f"{path} is no run folder: it has no spec.toml")
    try:
        names = [table["name"] for table in tables(spec_of(folder))]
    except ValueError as error:
        raise UserError(f"{folder.spec}: is no TOML: {error}; mend it") from error
    if not names:
        raise UserError(f"{folder.spec} names no [[tracker]]; add one there (docs/trackers.md)")
    if folder.in_use():
        raise UserError(f"{path} is training, and its trackers follow it; wait for it to end")
    with following(folder, seconds):
        sys.stderr.write(f"sending to {', '.join(names)}, at most {seconds:g} s …\n")
    left = [unsent(folder, name) for name in names]
    for name, (missing, steps) in zip(names, left, strict=True):
        if not missing:
            sys.stdout.write(f"{name} has all {steps} steps\n")
    return int(any(missing for missing, _ in left))


def unsent(folder: RunFolder, name: str) -> tuple[int, int]:
    """Recorded steps that a tracker has not taken, and how many there are at all."""
    sent = State.read(folder.tracker(name)).step
    steps = [record["step"] for record in Tail(folder.metrics).new() if "step" in record]
    return sum(step > sent for step in steps), len(steps)


def _started(folder: RunFolder, table: dict[str, Any], finish_s: float | None) -> _Follower:
    name, seconds = table["name"], finish_s or float(table.get("finish_s", 30.0))
    theirs, ours = os.pipe()
    log = folder.tracker_log(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = (sys.executable, "-m", "drpo_cli.launch.tracker_process")
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [*command, str(folder.path), name, str(theirs), str(seconds)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            pass_fds=(theirs,),
            start_new_session=True,  # Ctrl-C is the run's; and what it starts dies with it
        )
    os.close(theirs)
    return _Follower(name, seconds, process, ours)


def _end(folder: RunFolder, followers: list[_Follower]) -> None:
    began = time.monotonic()
    for one in followers:
        with suppress(BrokenPipeError):  # it is gone already
            os.write(one.pipe, b".")
        os.close(one.pipe)
    try:
        for one in followers:
            in_time = _waited(one, began)
            _say(folder, one, in_time)
    finally:
        for one in followers:
            if one.process.returncode is None:  # not waited for yet, so the number is still its own
                os.killpg(one.process.pid, signal.SIGKILL)
                one.process.wait()


def _waited(one: _Follower, began: float) -> bool:
    """Whether it ended by itself within its time."""
    for seconds in (min(QUIET_S, one.finish_s), one.finish_s):
        try:
            one.process.wait(max(0.0, began + seconds - time.monotonic()))
            return True
        except subprocess.TimeoutExpired:
            if seconds < one.finish_s:
                sys.stderr.write(f"waiting for tracker {one.name}, at most {one.finish_s:g} s …\n")
    return False


def _say(folder: RunFolder, one: _Follower, in_time: bool) -> None:
    left, steps = unsent(folder, one.name)
    if not left and in_time and one.process.returncode == 0:
        return
    state = State.read(folder.tracker(one.name))
    why = "" if in_time else f"; it did not end within {one.finish_s:g} s"
    if state.failures:
        why += f"; it failed {state.failures} times, last with {state.error}"
    lost = f"{left} of {steps} steps were not sent" if left else "its last steps may be missing"
    again = f"; send them with `drpo track {folder.path}`" if left else ""
    sys.stderr.write(
        f"warning: tracker {one.name}: {lost}{why}; its log is "
        f"{folder.tracker_log(one.name)}{again}\n"
    )
