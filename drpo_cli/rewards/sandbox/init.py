"""First process inside a sandbox: starts the program under its limits, watches, says how it ended.

It is process 1 where there is a PID namespace, and the kernel kills the rest when it ends; where
there is none, it is the subreaper that orphans fall to. Standard library only, and nothing from
this package: bubblewrap runs this one file, `python _sandbox_init.py JOB` with the job as JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

LINUX = sys.platform == "linux"
REPORT_FD = 3  # of the program: what it reports apart from its output
MIB = 1 << 20
OPEN_FILES = 256
LEAST_FILE = 4096  # bytes that a file of any size counts for
SLOWEST_LOOK_S = 0.02

SET_DEATH_SIGNAL, SET_DUMPABLE, SET_SUBREAPER, SET_NO_NEW_PRIVILEGES = 1, 4, 36, 38


def prctl(option: int, value: int) -> None:
    """One of Linux's process controls; does nothing on another system. Raises OSError."""
    if LINUX and ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def say(status_fd: int, **what: Any) -> None:
    """One line to the supervisor."""
    os.write(status_fd, json.dumps(what).encode() + b"\n")


def run(job: dict[str, Any], harden: Callable[[], None] | None = None) -> NoReturn:
    """Runs `job["argv"]`, and says how that ended.

    What it says: {"started": true}, then {"status": …} or {"reason": …}; or {"error": …}.

    harden  called in the program's process just before it becomes the program
    """
    prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
    prctl(SET_SUBREAPER, 1)
    processes = Processes(job.get("proc_fd"))
    program = os.fork()
    if program == 0:
        _become(job, harden)
    prctl(SET_DUMPABLE, 0)  # or the program could trace this process
    os.closerange(0, REPORT_FD + 1)
    say(job["status_fd"], started=True)
    limits, watched = job["limits"], job.get("watched_folder")
    say(
        job["status_fd"],
        **_watch(program, lambda: processes.over(limits) or _full(watched, limits)),
    )
    os._exit(0)


def _become(job: dict[str, Any], harden: Callable[[], None] | None) -> NoReturn:
    try:
        if LINUX:  # elsewhere the supervisor has nothing but the process group to go by
            os.setsid()
        os.chdir(job["folder"])
        prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
        prctl(SET_NO_NEW_PRIVILEGES, 1)
        _limit(job["limits"])
        os.set_inheritable(job["status_fd"], False)
        os.set_inheritable(REPORT_FD, True)
        if harden is not None:
            harden()
        os.execve(job["argv"][0], job["argv"], job["environment"])
    except (OSError, ValueError) as error:
        say(job["status_fd"], error=f"the program did not start: {error}")
        os._exit(1)


def _limit(limits: dict[str, Any]) -> None:
    seconds, memory = int(limits["cpu_s"]) + 1, limits["memory_mib"] * MIB
    wanted = {
        "RLIMIT_CPU": seconds,
        "RLIMIT_AS": memory if LINUX else None,
        "RLIMIT_FSIZE": limits["file_mib"] * MIB,
        "RLIMIT_NOFILE": OPEN_FILES,
        "RLIMIT_NPROC": limits["user_processes"],
        "RLIMIT_CORE": 0,
    }
    for name, value in wanted.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        if value is not None:
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, value))


def _watch(program: int, over: Callable[[], str | None]) -> dict[str, Any]:
    """How it ended, once it has: by itself, or because all of it together is `over` a limit."""
    wait_s = 0.001
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == program:
            return {"status": os.waitstatus_to_exitcode(status)}
        if pid == 0:
            reason = over()
            if reason is not None:
                return {"reason": reason}
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, SLOWEST_LOOK_S)


class Processes:
    """The processes below this one, as /proc shows them; none where there is no /proc.

    proc_fd  a folder that is /proc, where the one at that path is another
    """

    def __init__(self, proc_fd: int | None = None) -> None:
        self._fd = proc_fd
        if proc_fd is None and os.path.exists("/proc/self/stat"):
            self._fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        self._ticks = os.sysconf("SC_CLK_TCK")
        self._page = os.sysconf("SC_PAGE_SIZE")

    def below(self) -> dict[int, list[int]]:
        """Each process's [parent, CPU ticks with those of its dead children, resident pages]."""
        if self._fd is None:
            return {}
        every = dict(self._stats())
        children = defaultdict(list)
        for pid, (parent, _, _) in every.items():
            children[parent].append(pid)
        todo, found = [int(os.readlink("self", dir_fd=self._fd))], {}
        while todo:
            for pid in children[todo.pop()]:
                found[pid] = every[pid]
                todo.append(pid)
        return found

    def over(self, limits: dict[str, Any]) -> str | None:
        """Which limit all of them together are over."""
        found = self.below().values()
        if len(found) > limits["processes"]:
            return "processes"
        if sum(pages for _, _, pages in found) * self._page > limits["memory_mib"] * MIB:
            return "memory"
        if sum(ticks for _, ticks, _ in found) / self._ticks > limits["cpu_s"]:
            return "timeout"
        return None

    def _stats(self) -> Iterator[tuple[int, list[int]]]:
        assert self._fd is not None
        for name in os.listdir(self._fd):
            if name.isdecimal():
                try:
                    opened = os.open(f"{name}/stat", os.O_RDONLY, dir_fd=self._fd)
                    try:
                        text = os.read(opened, 4096)
                    finally:
                        os.close(opened)
                except (FileNotFoundError, ProcessLookupError, PermissionError):
                    continue  # it ended meanwhile, or is another user's
                # The name in brackets may hold anything; the fields are counted from behind it.
                field = text.rpartition(b")")[2].split()
                yield int(name), [int(field[1]), sum(map(int, field[11:15])), int(field[21])]


def _full(folder: str | None, limits: dict[str, Any]) -> str | None:
    """Whether the files in `folder` are over its limit, where no memory disk holds them to it."""
    size = 0
    for path, folders, files in os.walk(folder) if folder else ():
        for name in (*folders, *files):
            with contextlib.suppress(OSError):  # it is gone, or was hidden from other users
                size += max(os.lstat(os.path.join(path, name)).st_blocks * 512, LEAST_FILE)
        if size > limits["folder_mib"] * MIB:
            return "disk"
    return None


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
