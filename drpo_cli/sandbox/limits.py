"""First process inside a sandbox: starts the program under its limits, watches it, reports its end.

With bubblewrap it is process 1 of a PID namespace, and the kernel kills the rest when it ends;
without, it is the subreaper that gets the orphans. It is inside since /proc in there has only the
sandbox's processes, and a limit on processes counts only those.

Standard library only and nothing from this package (so `prctl` is here too): bubblewrap runs this
one file, `python limits.py JOB`, with the job as JSON.

A job holds:

    argv, environment, folder   of the program
    limits                      `run.Limits` as a mapping, and `user_processes`
    status_fd                   where to report
    call_filter                 a seccomp filter in base64, or null
    watched_folder              whose files to count, or null; `memory_disks` have a size
    longest_wait_s              between two looks at processes that compute nothing
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import resource
import signal
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

LINUX = sys.platform == "linux"
REPORT_FD = 3  # of the program: what it reports apart from its output
MIB = 1 << 20
OPEN_FILES = 64  # each may hold memory of the kernel, such as a socket's
THREADS = 4  # per process that is allowed
SMALLEST_FILE = 16384  # bytes that a file of any size counts for: many take long to remove
LONGEST_WAIT_S = 0.02  # between two looks at what the program uses

SET_SECCOMP, FILTER, INSTRUCTION_BYTES = 22, 2, 8
SET_DEATH_SIGNAL, SET_DUMPABLE, SET_SUBREAPER, SET_NO_NEW_PRIVILEGES = 1, 4, 36, 38


def prctl(option: int, value: int) -> None:
    """Sets one of Linux's process controls; does nothing on another system. Raises OSError."""
    if LINUX and ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def report(status_fd: int, **what: Any) -> None:
    """Sends one line of JSON to the supervisor."""
    os.write(status_fd, json.dumps(what).encode() + b"\n")


def run(job: dict[str, Any], harden: Callable[[], None] | None = None) -> NoReturn:
    """Runs `job["argv"]` and reports how it ended.

    It reports {"started": true}, then {"status": …} or {"reason": …}; or {"error": …}.

    harden  called in the program's process just before it becomes the program
    """
    prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
    prctl(SET_SUBREAPER, 1)
    processes = Processes()
    program = os.fork()
    if program == 0:
        _become_program(job, harden)
    prctl(SET_DUMPABLE, 0)  # or the program could trace this process
    os.closerange(0, REPORT_FD + 1)
    report(job["status_fd"], started=True)

    def exceeded() -> str | None:
        limits = job["limits"]
        return (
            processes.exceeded(limits)
            or _folder_exceeded(job.get("watched_folder"), limits)
            or _disks_exceeded(job.get("memory_disks", ()), limits)
        )

    report(job["status_fd"], **_watch(program, processes, exceeded, job["longest_wait_s"]))
    os._exit(0)


def _become_program(job: dict[str, Any], harden: Callable[[], None] | None) -> NoReturn:
    try:
        if LINUX:  # elsewhere the supervisor knows the program only by its process group
            os.setsid()
        os.chdir(job["folder"])
        prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
        prctl(SET_NO_NEW_PRIVILEGES, 1)
        _set_limits(job["limits"])
        os.set_inheritable(job["status_fd"], False)
        os.set_inheritable(REPORT_FD, True)
        if harden is not None:
            harden()
        if job["call_filter"] is not None:
            _install_call_filter(base64.b64decode(job["call_filter"]))
        os.execve(job["argv"][0], job["argv"], job["environment"])
    except (OSError, ValueError) as error:
        report(job["status_fd"], error=f"the program did not start: {error}")
        os._exit(1)


def _install_call_filter(program: bytes) -> None:
    """Puts the filter on this process and all that it starts, for good. Raises OSError."""
    kept = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // INSTRUCTION_BYTES, ctypes.addressof(kept))
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(SET_SECCOMP, FILTER, header, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl PR_SET_SECCOMP")


def _set_limits(limits: dict[str, Any]) -> None:
    wanted = {
        "RLIMIT_CPU": int(limits["cpu_s"]) + 1,
        "RLIMIT_AS": limits["memory_mib"] * MIB if LINUX else None,
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


def _watch(
    program: int, processes: Processes, exceeded: Callable[[], str | None], longest_wait_s: float
) -> dict[str, Any]:
    """Waits for the end of the program: by itself, or because it exceeded a limit."""
    wait_s, ticks = 0.001, -1
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == program:
            return {"status": os.waitstatus_to_exitcode(status)}
        if pid == 0:
            reason = exceeded()
            if reason is not None:
                return {"reason": reason}
            time.sleep(wait_s)
            idle = processes.ticks == ticks
            wait_s = min(2 * wait_s, longest_wait_s if idle else LONGEST_WAIT_S)
            ticks = processes.ticks


class Processes:
    """The processes below this one, as /proc shows them; none where there is no /proc.

    ticks  of the CPU that they had used when `exceeded` looked last
    """

    def __init__(self) -> None:
        self.ticks = 0
        self._proc: int | None = None
        if os.path.exists("/proc/self/stat"):
            self._proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        self._ticks = os.sysconf("SC_CLK_TCK")
        self._page = os.sysconf("SC_PAGE_SIZE")

    def below(self) -> dict[int, list[int]]:
        """Each one's [parent, CPU ticks with those of its dead children, pages, threads]."""
        if self._proc is None:
            return {}
        all_processes = dict(self._read_stats(self._proc))
        children = defaultdict(list)
        for pid, (parent, *_) in all_processes.items():
            children[parent].append(pid)
        todo, found = [os.getpid()], {}
        while todo:
            for pid in children[todo.pop()]:
                found[pid] = all_processes[pid]
                todo.append(pid)
        return found

    def exceeded(self, limits: dict[str, Any]) -> str | None:
        """The limit that all of them together exceed."""
        found, most = self.below(), limits["processes"]
        _, ticks, pages, threads = map(sum, zip(*found.values(), [0] * 4, strict=True))
        self.ticks = ticks
        if len(found) > most or threads > THREADS * most:
            return "processes"
        if pages * self._page > limits["memory_mib"] * MIB and (
            sum(map(self._memory, found, found.values())) > limits["memory_mib"] * MIB
        ):
            return "memory"
        if ticks / self._ticks > limits["cpu_s"]:
            return "timeout"
        return None

    def _memory(self, pid: int, stats: list[int]) -> int:
        """Resident bytes, where pages that processes share count once in all."""
        with contextlib.suppress(OSError, ValueError, StopIteration):
            assert self._proc is not None
            opened = os.open(f"{pid}/smaps_rollup", os.O_RDONLY, dir_fd=self._proc)
            with open(opened) as file:
                return int(next(line for line in file if line.startswith("Pss:")).split()[1]) << 10
        return stats[2] * self._page

    def _read_stats(self, proc: int) -> Iterator[tuple[int, list[int]]]:
        for name in os.listdir(proc):
            if name.isdecimal():
                try:
                    opened = os.open(f"{name}/stat", os.O_RDONLY, dir_fd=proc)
                    try:
                        text = os.read(opened, 4096)
                    finally:
                        os.close(opened)
                except (FileNotFoundError, ProcessLookupError, PermissionError):
                    continue  # it ended meanwhile, or belongs to another user
                # The name in brackets may hold anything, so the fields are counted from its end.
                field = text.rpartition(b")")[2].split()
                yield (
                    int(name),
                    [
                        int(field[1]),
                        sum(map(int, field[11:15])),
                        int(field[21]),
                        int(field[17]),
                    ],
                )


def _folder_exceeded(folder: str | None, limits: dict[str, Any]) -> str | None:
    """Whether the files in `folder` are too large, or hidden so that they cannot be counted."""
    size = 0
    hidden: list[OSError] = []
    for path, folders, files in os.walk(folder, onerror=hidden.append) if folder else ():
        for name in (*folders, *files):
            with contextlib.suppress(OSError):  # it is gone
                size += max(os.lstat(os.path.join(path, name)).st_blocks * 512, SMALLEST_FILE)
            if size > limits["folder_mib"] * MIB:
                return "disk"
    return "disk" if any(not isinstance(one, FileNotFoundError) for one in hidden) else None


def _disks_exceeded(disks: Iterable[str], limits: dict[str, Any]) -> str | None:
    """Whether disks in memory hold too many files; their size has a limit of its own."""
    for disk in disks:
        found = os.statvfs(disk)
        if (found.f_files - found.f_ffree) * SMALLEST_FILE > limits["folder_mib"] * MIB:
            return "disk"
    return None


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
