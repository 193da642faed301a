"""Python sessions in the sandbox: pieces of code that share their variables.

    caller ── requests, reports ──▶ interpreter, inside
       └──── supervisor ─▶ first process, inside ──┘

The supervisor watches the limits, and ends everything when the caller is gone. The caller keeps the
time of each piece of code. What comes out of the sandbox may be anything.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from drpo_cli.sandbox.run import DEFAULT, Limits, make_request, read_answer, start_supervisor

_START_S = 60.0  # of supervisor, sandbox and interpreter
_END_S = 2.0  # until a limit that ended the interpreter is recorded
_LONGEST_S = 7 * 24 * 3600.0  # of a session
_BYTES_PER_CHARACTER = 12  # most, in JSON
_PROGRAM = Path(__file__).with_name("interpreter.py").read_text() + "\nserve()\n"


class Reply(NamedTuple):
    """What became of a piece of code.

    output  what it printed, and the value of a last expression
    error   the traceback of what it raised
    ended   why the session ended, so that all variables are lost and `output` is empty: a limit
            (`run.Reason`, where "timeout" is this call's), "cpu" for the time of all calls, or
            "closed"
    """

    output: str
    error: str | None = None
    ended: str | None = None


class Session:
    """One interpreter, which lives until `close`, or until its code exceeds a limit.

    limits    of all its processes and all its calls together, but `wall_s` is that of one call
    backend   one of `run.BACKENDS`, which works here (`run.find_backend`)
    packages  installed packages can be imported, not only the standard library
    python    another interpreter than this one

    Raises RuntimeError where the sandbox does not start.
    """

    def __init__(
        self,
        limits: Limits = DEFAULT,
        backend: str = "bubblewrap",
        packages: bool = False,
        python: str | None = None,
    ) -> None:
        self._limits, self._unread, self._closed, self._calls = limits, b"", False, 0
        self._lock = threading.Lock()  # held by the one call in flight
        kept = replace(limits, wall_s=_LONGEST_S)
        request = make_request(_PROGRAM, kept, backend, packages, python)
        (stdin, self._requests), (self._reports, report) = os.pipe(), os.pipe()
        try:
            self._supervisor = start_supervisor((stdin, report))
        except OSError:
            os.close(self._requests)
            os.close(self._reports)
            raise
        finally:
            os.close(stdin)
            os.close(report)
        assert self._supervisor.stdin is not None
        self._supervisor.stdin.write(json.dumps(request | {"talk": [stdin, report]}).encode())
        self._supervisor.stdin.close()
        self._supervisor.stdin = None  # `communicate` would flush it
        os.set_blocking(self._requests, False)
        if self._read_line(time.monotonic() + _START_S, 64) is None:
            raise RuntimeError(f"the sandbox's interpreter did not start: {self._end(_END_S)}")

    @property
    def alive(self) -> bool:
        """Whether it can run code."""
        return not self._closed and self._supervisor.poll() is None

    def run(self, code: str, most: int = 16384) -> Reply:
        """Runs code, and waits until it has ended.

        most  characters of the output, and of a traceback; of more it keeps start and end
        """
        with self._lock:
            if self._closed:
                return Reply("", ended="closed")
            deadline = time.monotonic() + self._limits.wall_s
            self._calls += 1
            request = json.dumps({"call": self._calls, "code": code, "most": most}).encode() + b"\n"
            longest = 4096 + 2 * most * _BYTES_PER_CHARACTER
            line = self._read_line(deadline, longest) if self._write(request, deadline) else None
            if line is None and time.monotonic() >= deadline:
                self._end(0)
                return Reply("", ended="timeout")
            if line is None:
                ended = self._end(_END_S)
                return Reply("", ended="cpu" if ended == "timeout" else ended)
            try:
                found = json.loads(line)
                if found["call"] != self._calls:
                    raise ValueError("the report of another call")
                return Reply(str(found["output"]), found["error"] and str(found["error"]))
            except (ValueError, TypeError, KeyError, RecursionError):  # the code wrote it
                self._end(0)
                return Reply("", ended="killed")

    def interrupt(self) -> None:
        """Makes it end soon; code that another thread runs returns as `ended`."""
        self._supervisor.terminate()  # it ends the program first

    def close(self) -> None:
        """Ends the session with everything that it started; also while another thread runs code."""
        self.interrupt()
        with self._lock:
            self._end(_START_S)

    def _end(self, wait_s: float) -> str:
        """Ends it, and says why it did, if it does so by itself in this time."""
        if self._closed:
            return "closed"
        self._closed = True
        os.close(self._requests)
        os.close(self._reports)
        try:
            answer, _ = self._supervisor.communicate(timeout=wait_s)
        except subprocess.TimeoutExpired:
            self._supervisor.terminate()
            answer, _ = self._supervisor.communicate()
        return read_answer(answer).reason if answer else "closed"

    def _write(self, left: bytes, deadline: float) -> bool:
        while left:
            if not _wait(self._requests, select.POLLOUT, deadline):
                return False
            try:
                left = left[os.write(self._requests, left) :]
            except BrokenPipeError:
                return False
        return True

    def _read_line(self, deadline: float, most: int) -> bytes | None:
        """None if there is none in time, it is too long, or the other side has ended."""
        while b"\n" not in self._unread:
            if len(self._unread) > most or not _wait(self._reports, select.POLLIN, deadline):
                return None
            chunk = os.read(self._reports, 1 << 16)
            if not chunk:
                return None
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line


def _wait(fd: int, event: int, deadline: float) -> bool:
    """Whether the descriptor can be read or written in time. Unlike `select`, it takes any."""
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))))
