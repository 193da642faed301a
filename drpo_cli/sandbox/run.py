"""Runs Python that nobody has read: under limits, in an empty folder, and with nothing left behind.

Two backends: `bubblewrap`, and `plain` where that does not work. docs/sandbox.md and `stops` say
what each stops and what it does not.

A supervisor process (`supervisor.py`) stands between caller and program. The caller may be killed
at any moment; the supervisor then ends the program and all that it started.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from drpo_cli.errors import UserError
from drpo_cli.sandbox import cgroup, landlock
from drpo_cli.sandbox.calls import build_call_filter

Reason = Literal["ok", "failed", "killed", "timeout", "memory", "processes", "disk", "output"]
BACKENDS = ("bubblewrap", "plain")
_START_AND_END_S = 60.0  # for the supervisor, beyond the program's own time
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
# Appended, so that no file next to the package hides one of the standard library.
_SUPERVISOR = (
    f"import sys; sys.path.append({str(_PACKAGE_ROOT)!r}); "
    "from drpo_cli.sandbox.supervisor import main; main()"
)
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # sets come in one order, or a score could change from run to run
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Limits:
    """What a program may use: all of its processes together, except where it says otherwise."""

    wall_s: float = 10.0
    cpu_s: float = 10.0
    memory_mib: int = 512
    """Resident memory; also the address space of each process."""
    processes: int = 32
    file_mib: int = 16
    """Size of each single file."""
    folder_mib: int = 64
    """Size of all its files."""
    output_kib: int = 1024
    """Of stdout, of stderr and of the report, each."""


DEFAULT = Limits()


@dataclass(frozen=True)
class Result:
    """How a program ended.

    reason  ok: exit status 0; failed: another one; killed: by a signal that no limit sent (a
            crash); the others name the limit that it exceeded
    status  exit status, or −(signal number); None where a limit ended it
    report  what it wrote to file descriptor 3, apart from its output
    """

    reason: Reason
    status: int | None
    stdout: str
    stderr: str
    report: str


def run_program(
    program: str,
    stdin: str = "",
    limits: Limits = DEFAULT,
    backend: str = "auto",
    packages: bool = False,
    python: str | None = None,
) -> Result:
    """Runs the source `program` as a script, in an empty folder that is removed afterwards.

    backend   one of BACKENDS, or "auto" for the first that works
    packages  installed packages can be imported, not only the standard library
    python    another interpreter than this one

    Raises UserError where the backend does not work on this machine, RuntimeError where it fails.
    """
    return _supervise(program, stdin, limits, find_backend(backend), packages, python)


@lru_cache
def find_backend(backend: str) -> str:
    """The first of BACKENDS that works here, or `backend` itself; tried by running a program.

    Root has to name `plain`: `auto` does not take it. Raises UserError, which says why, where none
    works.
    """
    refusals = []
    automatic = BACKENDS if os.getuid() != 0 else ("bubblewrap",)
    for name in automatic if backend == "auto" else (backend,):
        try:
            result = _supervise("print('ready')", "", DEFAULT, name, False, None)
        except RuntimeError as error:
            refusals.append(f"{name}: {error}")
            continue
        if result.stdout == "ready\n":
            return name
        refusals.append(f"{name}: {result.reason}, {result.stderr.strip()[-300:]}")
    fix = "see docs/sandbox.md for what each one needs"
    if backend == "auto" and os.getuid() == 0:
        fix = f'install bubblewrap, or allow root the weaker sandbox: backend = "plain"; {fix}'
    raise UserError(
        f"no sandbox works here (backend {backend!r}; {'; '.join(refusals)})",
        fix,
    )


def stops(name: str) -> dict[str, bool]:
    """What one of BACKENDS stops on this machine, of what differs between them.

    network          reaching any address, this machine's included
    reading          files outside its folder, other than Python's and the system's own
    writing          files outside its folder
    environments     reading those of other processes
    other_processes  signals to processes that are not its own
    sockets          Unix sockets, such as Docker's
    memory           memory outside its processes: shared, of files, of the kernel
    """
    boxed, other_user = name == "bubblewrap", os.getuid() == 0
    filtered, locked = build_call_filter() is not None, landlock.version()
    return {
        "network": boxed or filtered,
        "reading": boxed or locked > 0,
        "writing": boxed or locked > 0,
        "environments": boxed or other_user or locked > 0,
        "other_processes": boxed or other_user or locked >= landlock.SIGNALS_FROM,
        "sockets": boxed or filtered,
        "memory": (filtered and (boxed or locked > 0)) or cgroup.available(),
    }


def _supervise(
    program: str, stdin: str, limits: Limits, backend: str, packages: bool, python: str | None
) -> Result:
    request = make_request(program, limits, backend, packages, python) | {"stdin": stdin}
    supervisor = start_supervisor()
    try:
        answer, complaint = supervisor.communicate(
            json.dumps(request).encode(), limits.wall_s + _START_AND_END_S
        )
    finally:
        if supervisor.poll() is None:
            supervisor.terminate()  # it ends the program first
            supervisor.wait()
    if not answer:
        last = complaint.decode(errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"the sandbox's supervisor ended with {supervisor.returncode}: {last}")
    return read_answer(answer)


def make_request(
    program: str, limits: Limits, backend: str, packages: bool, python: str | None
) -> dict[str, Any]:
    """The request to the supervisor that runs a program, without input, on one of BACKENDS.

    Raises RuntimeError where bubblewrap is not installed.
    """
    if backend == "bubblewrap" and shutil.which("bwrap", path=os.defpath) is None:
        raise RuntimeError("`bwrap` is not installed; install bubblewrap")
    call_filter = build_call_filter(backend == "bubblewrap" or os.getuid() == 0)
    return _interpreter(packages, python) | {
        "program": program,
        "stdin": "",
        "limits": asdict(limits),
        "backend": backend,
        "environment": _ENVIRONMENT,
        "parent": os.getpid(),
        "temporary": os.path.realpath(tempfile.gettempdir()),
        "call_filter": base64.b64encode(call_filter).decode() if call_filter else None,
        "talk": None,
    }


def start_supervisor(pass_fds: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Starts a supervisor, which waits for its request; it inherits the descriptors."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _SUPERVISOR],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={},
        cwd="/",
        start_new_session=True,
        pass_fds=pass_fds,
    )


def _interpreter(packages: bool, python: str | None) -> dict[str, Any]:
    """The command of the interpreter, and the folders it needs.

    Not -I, which ignores PYTHONHASHSEED too; all other variables are ours anyway.
    """
    if python is not None:
        return {"python": [python, "-P", "-s", "-S"], "roots": []}
    if packages:
        return {"python": [sys.executable, "-P", "-s"], "roots": [sys.base_prefix, sys.prefix]}
    base = os.path.realpath(sys.executable)
    return {"python": [base, "-P", "-s", "-S"], "roots": [sys.base_prefix]}


def read_answer(text: bytes) -> Result:
    """The result in a supervisor's answer. Raises RuntimeError where the program did not start."""
    answer = json.loads(text)
    reason, status = answer.get("reason"), answer.get("status")
    texts = (answer["stdout"], answer["stderr"], answer["report"])
    if "error" in answer or "started" not in answer:
        raise RuntimeError(answer.get("error") or f"it did not start: {texts[1].strip()[-300:]}")
    if reason is None and status is not None:
        return Result(_reason(status, texts[1]), status, *texts)
    return Result(reason or "killed", None, *texts)  # the program may kill the sandbox's processes


def _reason(status: int, stderr: str) -> Reason:
    if status == 0:
        return "ok"
    if status == -signal.SIGXCPU:
        return "timeout"
    if status < 0:
        return "killed"
    last = stderr.rstrip().rpartition("\n")[2]
    return "memory" if last.startswith("MemoryError") else "failed"
