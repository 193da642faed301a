"""The process outside a sandbox: one request on stdin, one answer on stdout, nothing left behind.

It has a session of its own. It ends the sandbox when the program has ended, when time is up, when
there is too much output, and when its caller is gone (nobody reads its stdout, or its parent died).
Standard library only: it starts without site packages.

A request holds:

    program, stdin  text
    limits          `run.Limits` as a mapping
    backend         "bubblewrap" or "plain"
    python          the interpreter and its flags
    roots           folders that hold it and its libraries
    environment     of the program
    parent          process id of the caller
    temporary       where to make the folder of this run
    call_filter     a seccomp filter in base64, or null
    talk            null; or [stdin, report], inherited pipes to the caller, for a session
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

from drpo_cli.sandbox import bubblewrap, cgroup, limits, plain

_LONGEST_WAIT_S = 0.1
_IDLE_S = 0.25  # between two looks at a session that computes nothing
_LONGEST_START_S = 30.0  # until the first process is inside; the program's time starts then
_OUTPUTS = ("stdout", "stderr", "report")
_STATUS_FD = limits.REPORT_FD + 1
_OWN_PROCESSES = 3  # of a sandbox, besides the program's
_COUNTS_BY_NAMESPACE = (5, 14)  # Linux from here on: RLIMIT_NPROC starts at 0 in a user namespace


def main() -> None:
    """Answers the request on stdin."""
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Only noted: an exception could come in the middle of the cleaning up.
        signal.signal(number, lambda number, _: stopped.append(number))
    request = json.loads(sys.stdin.buffer.read())
    if request["talk"] is None:  # the signal comes at the end of the thread that made this process
        limits.prctl(limits.SET_DEATH_SIGNAL, signal.SIGTERM)
    limits.prctl(limits.SET_SUBREAPER, 1)
    if os.getppid() == request["parent"]:
        answer = _run(request, stopped)
        if not stopped:
            sys.stdout.write(json.dumps(answer))


def _run(request: dict[str, Any], stopped: list[int]) -> dict[str, Any]:
    base = Path(tempfile.mkdtemp(prefix="drpo-sandbox-", dir=request["temporary"]))
    group = cgroup.make(request["limits"]["memory_mib"], _most_tasks(request["limits"]))
    child = 0
    try:
        child, pipes = _Sandbox(request, base, group).start()
        reading = _Reading(pipes, request["limits"], request["parent"])
        reason = reading.read_until_end(stopped)
        _end_all(child)
        reading.drain()
        if group is not None and group.exceeded():
            reason = "memory"
        return reading.answer(reason)
    finally:
        _end_all(child)
        if group is not None:
            group.remove()
        _remove(base)


def _most_tasks(allowed: dict[str, Any]) -> int:
    """Processes and threads: one more than allowed, so that exceeding the limit can be seen."""
    return limits.THREADS * int(allowed["processes"]) + _OWN_PROCESSES + 1


class _Sandbox:
    """Starts one program; `base` is an empty folder for this run alone."""

    def __init__(self, request: dict[str, Any], base: Path, group: cgroup.Group | None) -> None:
        self._request, self._group = request, group
        self._plain = request["backend"] == "plain"
        self._stdin, self._program = base / "stdin", base / "program.py"
        self._folder = base / "work"
        base.chmod(0o711)
        self._folder.mkdir(mode=0o700)
        self._stdin.write_text(request["stdin"], "utf-8", "surrogatepass")
        self._program.write_text(request["program"], "utf-8", "surrogatepass")
        self._program.chmod(0o444)
        needed = (*request["roots"], request["python"][0], self._program)
        self._uid = plain.find_spare_uid(needed) if self._plain else None
        if self._uid is not None:
            os.chown(self._folder, self._uid, self._uid)

    def start(self) -> tuple[int, dict[str, int]]:
        """Returns the process started, and the read ends of the program's outputs and of `status`.

        On `status` the first process reports how the program ended, or that it did not start.
        """
        stdin = os.open(self._stdin, os.O_RDONLY)
        self._stdin.unlink()
        ends = {name: os.pipe() for name in (*_OUTPUTS, "status")}
        writes = [write for _, write in ends.values()]
        if self._request["talk"] is not None:
            # The pipe for the report ends at once: the program writes its reports to the caller.
            os.close(stdin)
            os.close(ends["report"][1])
            stdin, writes[_OUTPUTS.index("report")] = self._request["talk"]
        child = os.fork()
        if child == 0:
            self._become_sandbox([stdin, *writes])
        for fd in (stdin, *writes):
            os.close(fd)
        return child, {name: read for name, (read, _) in ends.items()}

    def _become_sandbox(self, fds: list[int]) -> NoReturn:
        try:
            # First above the places 0 … 4, some of which may be among them.
            moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, len(fds)) for fd in fds]
            for place, fd in enumerate(moved):
                os.dup2(fd, place)
            os.closerange(len(fds), limits.OPEN_FILES)
            if not limits.LINUX:
                os.setsid()
            limits.prctl(limits.SET_DEATH_SIGNAL, signal.SIGKILL)
            if self._group is not None:
                with contextlib.suppress(OSError):  # `cgroup.available` says so
                    self._group.join()
            if self._plain:
                self._run_plain()
            else:
                self._run_bubblewrap()
        except OSError as error:
            limits.report(_STATUS_FD, error=f"the sandbox did not start: {error}")
        finally:
            os._exit(1)

    def _run_bubblewrap(self) -> NoReturn:
        words = bubblewrap.command(
            self._job(bubblewrap.FOLDER, bubblewrap.PROGRAM) | {"memory_disks": bubblewrap.DISKS},
            str(self._program),
            self._request["python"][0],
            self._request["roots"],
        )
        os.execvpe(words[0], words, {"PATH": os.defpath})

    def _run_plain(self) -> NoReturn:
        if self._uid is not None:
            plain.become(self._uid)
        elif os.getuid() == 0:
            raise PermissionError(
                "programs would run as root; install bubblewrap, run as another user, or put "
                "Python and the temporary folder where other users can read them"
            )
        job = self._job(str(self._folder), str(self._program))
        job["watched_folder"] = str(self._folder)
        python = self._request["python"][0]
        readable = (*self._request["roots"], str(Path(python).parent), str(self._program))
        limits.run(job, lambda: plain.confine(readable, str(self._folder)))

    def _job(self, folder: str, program: str) -> dict[str, Any]:
        own = {"HOME": folder, "TMPDIR": folder, "PWD": folder}
        return {
            "argv": [*self._request["python"], program],
            "environment": self._request["environment"] | own,
            "folder": folder,
            "limits": self._request["limits"] | {"user_processes": self._user_processes()},
            "status_fd": _STATUS_FD,
            "call_filter": self._request["call_filter"],
            "longest_wait_s": limits.LONGEST_WAIT_S if self._request["talk"] is None else _IDLE_S,
        }

    def _user_processes(self) -> int | None:
        """How many processes the user may run; None where that would count other programs' too."""
        version = re.match(r"(\d+)\.(\d+)", platform.release())
        by_namespace = version and tuple(map(int, version.groups())) >= _COUNTS_BY_NAMESPACE
        if self._uid is None and (self._plain or not by_namespace):
            return None
        return int(self._request["limits"]["processes"]) + _OWN_PROCESSES


class _Reading:
    """Reads what comes out of the sandbox, up to its limit.

    pipes    read ends: one per output, and `status`, on which the first process reports
    allowed  the limits
    parent   process id of the caller
    """

    def __init__(self, pipes: dict[str, int], allowed: dict[str, Any], parent: int) -> None:
        self._parent = parent
        self._names = {fd: name for name, fd in pipes.items()}
        self._kept = {name: bytearray() for name in pipes}
        self._most = allowed["output_kib"] << 10
        self._wall_s = allowed["wall_s"]
        self._deadline = time.monotonic() + _LONGEST_START_S
        self._too_much = False
        self._poll = select.poll()
        for fd in self._names:
            os.set_blocking(fd, False)
            self._poll.register(fd, select.POLLIN)
        self._poll.register(1, 0)  # reports only that nobody reads it any more

    def read_until_end(self, stopped: list[int]) -> str | None:
        """Returns why the program must end; None where it has ended, or the caller is gone.

        stopped  gets an entry when the caller is gone
        """
        while "status" in self._names.values() and not stopped:
            left = self._deadline - time.monotonic()
            if left <= 0:
                return "timeout"
            for fd, _ in self._poll.poll(1000 * min(left, _LONGEST_WAIT_S)):
                if fd == 1:
                    stopped.append(fd)
                else:
                    self._read(fd)
            if os.getppid() != self._parent:
                stopped.append(self._parent)
            if self._too_much:
                return "output"
        return None

    def drain(self) -> None:
        """Reads what the dead have written: what a pipe holds, up to its end."""
        for fd in list(self._names):
            while fd in self._names and not self._too_much and self._read(fd):
                pass

    def answer(self, reason: str | None) -> dict[str, Any]:
        """The outputs and what the first process reported; `reason` if the sandbox was ended."""
        reported: dict[str, Any] = {}
        for line in self._kept["status"].splitlines():
            reported |= json.loads(line)
        if reason or self._too_much:
            reported["reason"] = reason or "output"
        texts = {name: self._kept[name].decode(errors="replace") for name in _OUTPUTS}
        return texts | reported

    def _read(self, fd: int) -> bool:
        """Whether there was anything to read."""
        name = self._names[fd]
        kept = self._kept[name]
        try:
            chunk = os.read(fd, 1 << 16)
        except BlockingIOError:
            return False
        if name == "status" and chunk and not kept:
            self._deadline = time.monotonic() + self._wall_s
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

    Outside Linux, where nothing shows what is below, it kills the process group of `child`.
    """
    processes = limits.Processes()
    while True:
        if child and not limits.LINUX:
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
