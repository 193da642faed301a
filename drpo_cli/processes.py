"""Child processes: the one way to start, wait for and end them. Also the CPU cores of this one.

Start a command with `start`, `run` or `capture`, a function with `fork`, and many runs of one kind
with `fork_server`. It is at the bottom of the import order, so that every room can use it, and
loads only the standard library.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkProcess, ForkServerContext
from pathlib import Path
from types import FrameType
from typing import NoReturn

from drpo_cli import secrets

Child = subprocess.Popen[bytes]
_Handler = Callable[[int, FrameType | None], object] | signal.Handlers
LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_GRACE_S = 5.0  # between SIGTERM and SIGKILL


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def python(module: str, *arguments: object) -> list[str]:
    """The command that runs a module in this interpreter."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def start(
    command: Sequence[str],
    *,
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
    inherit: Iterable[int] = (),
) -> Child:
    """Starts a command in a session of its own: the terminal's Ctrl-C does not reach it.

    log          gets what it prints; without one, it prints where this process does
    environment  variables added to this process's own
    inherit      file descriptors that it keeps open

    The child leads a process group, so `kill_group` ends it with everything that it started.
    """
    with log.open("ab") if log else nullcontext() as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
            pass_fds=tuple(inherit),
            start_new_session=True,
        )


def run(command: Sequence[str], *, log: Path | None = None) -> int:
    """Runs a command to its end and returns its exit code.

    It shares this process's session: Ctrl-C reaches both, and it is killed when the wait is
    interrupted. `log` gets what it prints; without one, it prints where this process does.
    """
    with log.open("ab") if log else nullcontext() as output:
        return subprocess.run(command, stdout=output, stderr=output, check=False).returncode


@dataclass(frozen=True)
class Captured:
    """What a command printed, and its exit code: −n for signal n, None when its time was up."""

    out: str
    err: str
    code: int | None


def capture(
    command: Sequence[str], *, seconds: float, environment: Mapping[str, str] | None = None
) -> Captured:
    """Runs a command in a session of its own and returns what it printed.

    After `seconds` it gets SIGTERM, and a little later its whole process group gets SIGKILL.
    """
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )
    try:
        return Captured(*child.communicate(timeout=seconds), child.returncode)
    except subprocess.TimeoutExpired:
        child.terminate()  # first: a launcher ends its ranks, which are outside its process group
    try:
        return Captured(*child.communicate(timeout=_GRACE_S), None)
    except subprocess.TimeoutExpired:
        kill_group(child.pid)
        return Captured(*child.communicate(), None)


def fork(target: Callable[..., object], *arguments: object) -> ForkProcess:
    """Runs a function in a fork of this process, in a session of its own; it dies with this one.

    Only for a process without threads: a fork does not have them, but it has their locks.
    """
    child = multiprocessing.get_context("fork").Process(target=_forked, args=(target, arguments))
    child.start()
    return child


def _forked(target: Callable[..., object], arguments: tuple[object, ...]) -> None:
    os.setsid()
    die_with_parent()
    target(*arguments)


def wait(child: Child, seconds: float) -> int | None:
    """Waits that long at most; returns the exit code, or None while the child still runs."""
    try:
        return child.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        return None


def kill_group(pid: int) -> None:
    """Sends SIGKILL to a child and to its process group.

    Only before the child is waited for: afterwards the number may belong to another process.
    """
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)  # a fork so new that it does not lead its group yet


def die_with_parent() -> None:
    """Has the system kill this process when the one that started it dies (Linux only).

    Call it first thing in a child: a parent that is already dead goes unnoticed.
    """
    if LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Makes descendants whose parent dies children of this process (Linux only)."""
    if LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def fork_server(
    preload: Iterable[str], environment: Mapping[str, str] | None = None
) -> ForkServerContext:
    """Starts a process that imports modules once; a `Process` of the context is a fork of it.

    Importing torch, transformers and an engine takes many times as long as a step of a tiny model,
    while a fork of a process that has imported them starts at once. Modules that do not exist are
    skipped. The server ignores SIGINT and SIGTERM, and so do its forks until they change that: a
    signal to the whole group is for the process that called this, and the death of the server
    would end its forks.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(sorted(set(preload)))
    # multiprocessing passes on the environment and the ignored signals of this moment
    stops = (signal.SIGINT, signal.SIGTERM)
    with _environment(environment or {}), handle_signals(stops, signal.SIG_IGN):
        forkserver.ensure_running()
    return context


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables inside, and restores the old values afterwards."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def handle_signals(
    numbers: Sequence[signal.Signals], handler: _Handler | None = None
) -> Iterator[None]:
    """Handles these signals with `handler` inside, and restores the handlers afterwards.

    Without a handler it only restores what the body, or a library that it calls, installs.
    """
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        if handler is not None:
            for number in numbers:
                signal.signal(number, handler)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def print_to(log: Path) -> None:
    """Appends to `log` all that this process and its children print from now on.

    What Python prints in this process is masked.
    """
    secrets.guard_streams()
    log.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def exit_now(code: int) -> NoReturn:
    """Ends this process without waiting for threads that a library left behind."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
