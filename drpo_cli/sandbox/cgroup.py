"""A cgroup for one sandbox, where this process may make one. Standard library only.

Its limit on memory counts what nothing else does: memory of files and of the kernel, and what
processes share. Its limit on tasks (processes and threads) holds for root too, whom RLIMIT_NPROC
does not bind; without it a fork bomb may reach the limit on memory before anyone counts it.

Version 2 needs a folder whose processes may be moved and whose children have the controller
`memory`, as systemd delegates it; version 1 a folder that may be written, as root's. The
controller `pids` is used where there is one.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_OWN_MIB = 48  # of the sandbox's own processes
_REMOVAL_S = 2.0
_NAME, _OLD_S = "drpo-sandbox-", 30.0


class Group:
    """A cgroup with limits: one folder with version 2, one for each controller with version 1."""

    def __init__(self, parent: Path, memory_mib: int, tasks: int) -> None:
        """Raises OSError where it cannot be made, or no process can be moved into it."""
        self._second = not (parent / "memory.limit_in_bytes").exists()
        self._name = f"{_NAME}{os.getpid()}"
        self._memory, self._folders = parent / self._name, [parent / self._name]
        limit = str((memory_mib + _OWN_MIB) << 20)
        names = (
            ("memory.max", "memory.swap.max")
            if self._second
            else ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        )
        self._memory.mkdir()
        try:
            (self._memory / names[0]).write_text(limit)
            with contextlib.suppress(OSError):  # no swap is counted here
                (self._memory / names[1]).write_text("0" if self._second else limit)
            if not os.access(self._memory / "cgroup.procs", os.W_OK):
                raise PermissionError(f"{self._memory}: no process can be moved here")
        except OSError:
            self.remove()
            raise
        self._limit_tasks(tasks)

    def _limit_tasks(self, most: int) -> None:
        with contextlib.suppress(OSError, StopIteration):  # the controller is not ours to use
            folder = self._memory
            if not self._second:
                folder = next(_parents("pids")) / self._name
                folder.mkdir()
                self._folders.append(folder)
            (folder / "pids.max").write_text(str(most))

    def join(self) -> None:
        """Moves this process into the cgroup, with all that it starts from now on."""
        for folder in self._folders:
            (folder / "cgroup.procs").write_text("0")

    def exceeded(self) -> bool:
        """Whether the kernel has killed a process for the limit on memory."""
        name = "memory.events" if self._second else "memory.oom_control"
        with contextlib.suppress(OSError):
            for line in (self._memory / name).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return line.split()[1] != "0"
        return False

    def remove(self) -> None:
        """Removes it; its processes must have ended."""
        end = time.monotonic() + _REMOVAL_S
        for folder in self._folders:
            while time.monotonic() < end:
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    pass
                except OSError:
                    time.sleep(0.005)
                    continue
                break


def make(memory_mib: int, tasks: int) -> Group | None:
    """A new cgroup; None where none can be made.

    tasks  the most processes and threads, the sandbox's own among them
    """
    for parent in _parents("memory"):
        with contextlib.suppress(OSError):
            group = Group(parent, memory_mib, tasks)
            _remove_old()
            return group
    return None


def _remove_old() -> None:
    """Removes the empty groups of supervisors that were killed."""
    for path in groups():
        with contextlib.suppress(OSError):
            pid = path.name.removeprefix(_NAME)
            if not Path("/proc", pid).exists() and time.time() - path.stat().st_mtime > _OLD_S:
                path.rmdir()


def groups() -> list[Path]:
    """The folders of all sandboxes' cgroups."""
    parents = {*_parents("memory"), *_parents("pids")}
    return [path for parent in sorted(parents) for path in parent.glob(f"{_NAME}*")]


def available() -> bool:
    """Whether a process can be moved into what `make` gives; tried with one."""
    group = make(64, 64)
    if group is None:
        return False
    child = os.fork()
    if child == 0:
        with contextlib.suppress(OSError):
            group.join()
            os._exit(0)
        os._exit(1)
    status = os.waitpid(child, 0)[1]
    group.remove()
    return status == 0


def _parents(controller: str) -> Iterator[Path]:
    """Folders that may hold the new cgroup: this process's own and those above, nearest first."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            yield _ROOT / controller / path.lstrip("/")
        elif not controllers:
            own = _ROOT / path.lstrip("/")
            for folder in (own, *own.parents):
                control = folder / "cgroup.subtree_control"
                if control.exists() and controller in control.read_text().split():
                    yield folder
