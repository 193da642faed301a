"""Forks the workers, each below a guard, and ends them with everything that they started.

    server → guard → worker → what the code in it starts

The user's code may stop or kill its parent. That is its guard, which only waits: if it dies, its
worker dies with it, and nobody else. On Linux a guard adopts orphans, and the server those of a
dead guard, so what it started stays below them, in whatever session it is.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

import psutil

from drpo_cli import processes


class Child(NamedTuple):
    """A forked worker.

    pid         its guard's process id, which is also that of their process group
    connection  this side of the connection to it
    prints      where to read what it prints
    """

    pid: int
    connection: socket.socket
    prints: int


class Forks:
    """The processes below this one. Make it before anything that workers must not inherit.

    private  connections of this process that are open already
    """

    def __init__(self, *private: socket.socket) -> None:
        self._inherited = _open_descriptors() - {one.fileno() for one in private}
        self._guards: set[int] = set()
        self._own = os.getpid()
        processes.adopt_orphans()

    def fork(self, run: Callable[[socket.socket], None]) -> Child:
        """Runs a function in a new worker, with the worker's side of its connection."""
        self._sweep()
        ours, theirs = socket.socketpair()
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            _leave(lambda: self._guard(run, theirs, write))
        self._guards.add(pid)
        theirs.close()
        os.close(write)
        return Child(pid, ours, read)

    def kill(self, pid: int) -> None:
        """Kills a guard with its worker and all that the worker started.

        They are waited for only later: until then no other process can get the same number.
        """
        family = _below(pid)  # before it is dead, and its children are somebody else's
        processes.kill_group(pid)
        _kill_each(family)
        self._guards.discard(pid)

    def end(self) -> None:
        """Kills whatever is still below this process."""
        while family := _below(os.getpid()):
            _kill_each(family)
            with suppress(ChildProcessError):
                os.waitpid(-1, 0)

    def _sweep(self) -> None:
        """Waits for the dead, and kills what dead guards left to this process."""
        for pid in set(_children(os.getpid())) - self._guards:
            _kill_each([pid])
            os.waitpid(pid, os.WNOHANG)

    def _guard(self, run: Callable[[socket.socket], None], own: socket.socket, out: int) -> None:
        os.setsid()  # so that all can be killed together
        processes.die_with_parent()
        if os.getppid() != self._own:  # it died before that
            return
        processes.adopt_orphans()
        guard = os.getpid()
        pid = os.fork()
        if pid == 0:
            _leave(lambda: self._work(run, own, out, guard))
        for fd in _open_descriptors():  # or nobody would see that the worker has closed its own
            os.close(fd)
        while os.waitpid(-1, 0)[0] != pid:
            pass
        while processes.LINUX:  # its orphans are found below it, until they are killed together
            signal.pause()

    def _work(
        self, run: Callable[[socket.socket], None], own: socket.socket, out: int, guard: int
    ) -> None:
        processes.die_with_parent()
        if os.getppid() != guard:
            return
        with suppress(OSError):  # Linux: out of memory, it ends before the trainer does
            Path("/proc/self/oom_score_adj").write_text("1000")
        gc.freeze()  # the server's objects would close descriptors that are not theirs any more
        for fd in _open_descriptors() - self._inherited - {own.fileno(), out}:
            os.close(fd)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.close(out)
        run(own)


def _leave(do: Callable[[], None]) -> NoReturn:
    """Does it in a new fork, which then ends: never back into the server's event loop."""
    try:
        do()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _open_descriptors() -> set[int]:
    found = {int(name) for name in os.listdir("/dev/fd")}
    return {fd for fd in found if _is_open(fd)}  # not the one that listed them


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _below(pid: int) -> list[int]:
    found = _children(pid)
    return found + [one for child in found for one in _below(child)]


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    try:
        if (Path("/proc/self/task") / str(os.getpid()) / "children").exists():
            files = [task / "children" for task in tasks.iterdir()]
            return [int(child) for file in files for child in file.read_text().split()]
        return [child.pid for child in psutil.Process(pid).children()]  # 10 ms: reads all of /proc
    except (FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
        return []


def _kill_each(family: list[int]) -> None:
    for pid in family:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
