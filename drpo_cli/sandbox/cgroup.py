"""A memory cgroup for one sandbox, where this process may make one. Standard library only.

It counts what nothing else does: memory of files and of the kernel, and what processes share.
Version 2 needs a folder whose processes may be moved and whose children have the controller
`memory`, as systemd delegates it; version 1 a folder that may be written, as root's.
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


class MemoryGroup:
    """A cgroup with a limit."""

    def __init__(self, path: Path, memory_mib: int) -> None:
        """Raises OSError where it cannot be made."""
        self._path = path
        self._second = not (path.parent / "memory.limit_in_bytes").exists()
        limit = str((memory_mib + _OWN_MIB) << 20)
        path.mkdir()
        try:
            self._set("memory.max" if self._second else "memory.limit_in_bytes", limit)
            swap = (
                ("memory.swap.max", "0") if self._second else ("memory.memsw.limit_in_bytes", limit)
            )
            with contextlib.suppress(OSError):  # no swap is counted here
                self._set(*swap)
            if not os.access(path / "cgroup.procs", os.W_OK):
                raise PermissionError(f"{path}: no process can be moved here")
        except OSError:
            self.remove()
            raise

    def join(self) -> None:
        """Moves this process into the cgroup, with all that it starts from now on."""
        self._set("cgroup.procs", "0")

    def exceeded(self) -> bool:
        """Whether the kernel has killed a process for the limit."""
        name = "memory.events" if self._second else "memory.oom_control"
        with contextlib.suppress(OSError):
            for line in (self._path / name).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return line.split()[1] != "0"
        return False

    def remove(self) -> None:
        """Removes it; its processes must have ended."""
        end = time.monotonic() + _REMOVAL_S
        while time.monotonic() < end:
            try:
                return self._path.rmdir()
            except FileNotFoundError:
                return None
            except OSError:
                time.sleep(0.005)

    def _set(self, name: str, value: str) -> None:
        (self._path / name).write_text(value)


def make(memory_mib: int) -> MemoryGroup | None:
    """A new cgroup; None where none can be made."""
    for parent in _parents():
        with contextlib.suppress(OSError):
            group = MemoryGroup(parent / f"{_NAME}{os.getpid()}", memory_mib)
            _remove_old(parent)
            return group
    return None


def _remove_old(parent: Path) -> None:
    """Removes the empty groups of supervisors that were killed."""
    for path in parent.glob(f"{_NAME}*"):
        with contextlib.suppress(OSError):
            pid = path.name.removeprefix(_NAME)
            if not Path("/proc", pid).exists() and time.time() - path.stat().st_mtime > _OLD_S:
                path.rmdir()


def available() -> bool:
    """Whether a process can be moved into what `make` gives; tried with one."""
    group = make(64)
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


def _parents() -> Iterator[Path]:
    """Folders that may hold the new cgroup: this process's own and those above, nearest first."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield _ROOT / "memory" / path.lstrip("/")
        elif not controllers:
            own = _ROOT / path.lstrip("/")
            for folder in (own, *own.parents):
                control = folder / "cgroup.subtree_control"
                if control.exists() and "memory" in control.read_text().split():
                    yield folder
