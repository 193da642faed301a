"""The process outside a sandbox: one request on stdin, one answer on stdout, nothing left behind.

It has a session of its own, and ends the sandbox when time is up, when there is too much output,
when its caller is gone (nobody reads its stdout, or its parent died), and when the program has
ended. Standard library only: it starts without site packages.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from drpo_cli.rewards.sandbox import init
from drpo_cli.rewards.sandbox.start import Starter

_LOOK_S = 0.1
_OUTPUTS = ("stdout", "stderr", "report")


def main() -> None:
    """Answers the request on stdin; see `Starter` for what is in it."""
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Only noted: an exception could come in the middle of the cleaning up.
        signal.signal(number, lambda number, _: stopped.append(number))
    request = json.loads(sys.stdin.buffer.read())
    init.prctl(init.SET_DEATH_SIGNAL, signal.SIGTERM)
    init.prctl(init.SET_SUBREAPER, 1)
    if os.getppid() == request["parent"]:
        answer = _answer(request, stopped)
        if not stopped:
            sys.stdout.write(json.dumps(answer))


def _answer(request: dict[str, Any], stopped: list[int]) -> dict[str, Any]:
    base = Path(tempfile.mkdtemp(prefix="drpo-sandbox-", dir=request["temporary"]))
    child = 0
    try:
        child, pipes = Starter(request, base).start()
        reading = _Reading(pipes, request["limits"])
        ended = reading.until_the_end(stopped)
        _end_all(child)
        reading.drain()
        return reading.answer(ended)
    finally:
        _end_all(child)
        _remove(base)


class _Reading:
    """What comes out of the sandbox, never more of it than the limit.

    pipes  read ends: one of each output, and `status`, by which the first process speaks
    """

    def __init__(self, pipes: dict[str, int], limits: dict[str, Any]) -> None:
        self._names = {fd: name for name, fd in pipes.items()}
        self._kept = {name: bytearray() for name in pipes}
        self._most = limits["output_kib"] << 10
        self._deadline = time.monotonic() + limits["wall_s"]
        self._too_much = False
        self._poll = select.poll()
        for fd in self._names:
            os.set_blocking(fd, False)
            self._poll.register(fd, select.POLLIN)
        self._poll.register(1, 0)  # tells only that nobody reads it any more

    def until_the_end(self, stopped: list[int]) -> str | None:
        """Returns why it must end; None where it has ended by itself, or nobody wants to know.

        stopped  the list that gets an entry when the caller is gone
        """
        while "status" in self._names.values() and not stopped:
            left = self._deadline - time.monotonic()
            if left <= 0:
                return "timeout"
            for fd, _ in self._poll.poll(1000 * min(left, _LOOK_S)):
                if fd == 1:
                    stopped.append(fd)
                else:
                    self._read(fd)
            if self._too_much:
                return "output"
        return None

    def drain(self) -> None:
        """Reads what the dead have written: all that a pipe holds, and it ends there."""
        for fd in list(self._names):
            while fd in self._names and not self._too_much and self._read(fd):
                pass

    def answer(self, why: str | None) -> dict[str, Any]:
        """The outputs, what the first process said, and `reason` where the sandbox was ended."""
        said: dict[str, Any] = {}
        for line in self._kept["status"].splitlines():
            said |= json.loads(line)
        if why or self._too_much:
            said["reason"] = why or "output"
        texts = {name: self._kept[name].decode(errors="replace") for name in _OUTPUTS}
        return texts | said

    def _read(self, fd: int) -> bool:
        """Whether there was anything to read."""
        name = self._names[fd]
        kept = self._kept[name]
        try:
            chunk = os.read(fd, 1 << 16)
        except BlockingIOError:
            return False
        if not chunk:
            self._poll.unregister(fd)
            del self._names[fd]
        elif name != "status" and len(kept) + len(chunk) > self._most:
            kept += chunk[: self._most - len(kept)]
            self._too_much = True
        else:
            kept += chunk
        return bool(chunk)


def _end_all(child: int) -> None:
    """Kills everything below this process, orphans included, and waits until it is gone.

    Off Linux, where nothing shows what is below, it kills the process group of `child`.
    """
    processes = init.Processes()
    while True:
        if child and not init.LINUX:
            _signal(-child, signal.SIGKILL)
        # Stopped before they are killed, they cannot fork faster than they die.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in processes.below():
                _signal(pid, number)
        try:
            while os.waitpid(-1, os.WNOHANG)[0] != 0:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _remove(base: Path) -> None:
    # Both walk a tree of any depth, and neither follows a link out of it.
    subprocess.run(["chmod", "-R", "u+rwx", base], check=False, stderr=subprocess.DEVNULL)
    subprocess.run(["rm", "-rf", base], check=True)


if __name__ == "__main__":
    main()
