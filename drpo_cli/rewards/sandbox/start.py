"""Starts the processes of a sandbox: bubblewrap, or what the kernel grants without it."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from drpo_cli.rewards.sandbox import bubblewrap, init, kernel

_FIRST_UID = 0x40000000  # far above what accounts use; plus the process id, no two runs share one
_OWN_PROCESSES = 3  # of a sandbox, besides the program's
_STATUS_FD = init.REPORT_FD + 1
_COUNTS_BY_NAMESPACE = (5, 14)  # Linux from here on: RLIMIT_NPROC starts at 0 in a user namespace


class Starter:
    """The start of one program.

    request  program and stdin (text), limits (Limits as a mapping), backend ("bubblewrap",
             "namespaces" or "bare"), python (the interpreter and its flags), roots (folders that
             hold it and its libraries), environment
    base     an empty folder for this run alone
    """

    def __init__(self, request: dict[str, Any], base: Path) -> None:
        self._request = request
        self._backend: str = request["backend"]
        self._stdin, self._program = base / "stdin", base / "program.py"
        self._folder = base / "work"
        base.chmod(0o711)
        self._folder.mkdir(mode=0o700)
        self._stdin.write_text(request["stdin"], "utf-8", "surrogatepass")
        self._program.write_text(request["program"], "utf-8", "surrogatepass")
        self._program.chmod(0o444)
        self._uid = None if self._backend == "bubblewrap" else self._spare_uid()
        if self._uid is not None:
            os.chown(self._folder, self._uid, self._uid)

    def start(self) -> tuple[int, dict[str, int]]:
        """Returns the process started, and the read ends of the program's outputs, and of `status`.

        By `status` the sandbox says how the program ended, or that it did not start.
        """
        stdin = os.open(self._stdin, os.O_RDONLY)
        self._stdin.unlink()
        ends = {name: os.pipe() for name in ("stdout", "stderr", "report", "status")}
        writes = [write for _, write in ends.values()]
        child = os.fork()
        if child == 0:
            self._child([stdin, *writes])
        for fd in (stdin, *writes):
            os.close(fd)
        return child, {name: read for name, (read, _) in ends.items()}

    def _child(self, fds: list[int]) -> NoReturn:
        try:
            # First above the places 0 … 4, some of which may be among them.
            moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, len(fds)) for fd in fds]
            for place, fd in enumerate(moved):
                os.dup2(fd, place)
            os.closerange(len(fds), init.OPEN_FILES)
            if not init.LINUX:
                os.setsid()
            self._enter()
        except OSError as error:
            init.say(_STATUS_FD, error=f"the sandbox did not start: {error}")
        finally:
            os._exit(1)

    def _enter(self) -> None:
        init.prctl(init.SET_DEATH_SIGNAL, signal.SIGKILL)
        if self._backend == "bubblewrap":
            words = bubblewrap.command(
                self._job(bubblewrap.FOLDER, bubblewrap.PROGRAM),
                str(self._program),
                self._request["python"][0],
                self._request["roots"],
            )
            os.execvpe(words[0], words, {"PATH": os.defpath})
        if self._uid is not None:
            kernel.become_nobody(self._uid)
        elif self._backend == "bare" and os.getuid() == 0:
            raise PermissionError(
                "programs would run as root; install bubblewrap, run as another user, or put "
                "Python and the temporary folder where other users can read them"
            )
        job = self._job(str(self._folder), str(self._program))
        if self._backend == "namespaces":
            self._new_namespaces(job)
        elif self._backend == "bare":
            job["watched_folder"] = str(self._folder)
        init.run(job, kernel.refuse_calls if kernel.can_filter() else None)

    def _new_namespaces(self, job: dict[str, Any]) -> None:
        """Goes on in their first process; this one waits for it."""
        kernel.unshare()
        first = os.fork()
        if first != 0:
            os.closerange(0, _STATUS_FD + 1)
            os.waitpid(first, 0)
            os._exit(0)
        kernel.confine_writes(str(self._folder), self._request["limits"]["folder_mib"] * init.MIB)
        job["proc_fd"] = kernel.new_proc()

    def _job(self, folder: str, program: str) -> dict[str, Any]:
        return {
            "argv": [*self._request["python"], program],
            "environment": self._request["environment"]
            | {"HOME": folder, "TMPDIR": folder, "PWD": folder},
            "folder": folder,
            "limits": self._request["limits"] | {"user_processes": self._user_processes()},
            "status_fd": _STATUS_FD,
        }

    def _user_processes(self) -> int | None:
        """What the user may run at a time; None where that would count other processes too."""
        version = re.match(r"(\d+)\.(\d+)", platform.release())
        by_namespace = version and tuple(map(int, version.groups())) >= _COUNTS_BY_NAMESPACE
        if self._uid is None and (self._backend == "bare" or not by_namespace):
            return None
        return int(self._request["limits"]["processes"]) + _OWN_PROCESSES

    def _spare_uid(self) -> int | None:
        """A user of its own for the program; None where it may not be, or could not read Python."""
        if sys.platform != "linux" or os.getuid() != 0:
            return None
        uid = _FIRST_UID + os.getpid()
        known = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
        if not any(int(first) <= uid < int(first) + int(size) for first, _, size in known):
            return None
        needed = (*self._request["roots"], *self._request["python"][:1], self._program)
        return uid if all(_open_to_others(Path(path).resolve()) for path in needed) else None


def _open_to_others(path: Path) -> bool:
    folders = [path, *path.parents] if path.is_dir() else list(path.parents)
    return all(folder.stat().st_mode & 0o001 for folder in folders) and bool(
        path.stat().st_mode & 0o004
    )
