"""Two machines on one: network namespaces with a cable between them. Only root can make them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

PATIENCE_S = 120.0


class Machine:
    """A network namespace: it has its own address, and reaches nothing but the other one."""

    def __init__(self, name: str, address: str):
        self.name, self.address = name, address

    def start(self, *arguments: object, hidden: Path | None = None) -> subprocess.Popen[str]:
        """Starts `drpo` there; over a `hidden` folder it sees an empty one."""
        return self.python("-m", "drpo_cli", *arguments, hidden=hidden)

    def python(self, *arguments: object, hidden: Path | None = None) -> subprocess.Popen[str]:
        """Starts Python there."""
        command = [sys.executable, *map(str, arguments)]
        if hidden is not None:
            mount = 'mount -t tmpfs tmpfs "$0" && exec "$@"'
            command = ["sh", "-c", mount, str(hidden), *command]
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *command],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def kill(self) -> None:
        """Ends every process there, as if the machine lost its power."""
        while pids := _ip("netns", "pids", self.name).split():
            for pid in pids:
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.05)


Ended = tuple[int, str, str]
"""Exit code, stdout and stderr."""


def wait(processes: Sequence[subprocess.Popen[str]]) -> list[Ended]:
    """Waits for all; whoever hangs is killed, and fails the test."""
    ended = []
    for process in processes:
        out, err = process.communicate(timeout=PATIENCE_S)
        ended.append((process.returncode, out, err))
    return ended


@cache
def refusal() -> str:
    """Why there can be no namespaces here; empty where there can."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "network namespaces need root and iproute2"
    name = f"drpo{os.getpid()}"  # tests may run in several processes
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return "" if made.returncode == 0 else made.stderr.decode().strip()


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Two machines; whatever runs on them is killed at the end."""
    own = os.getpid()
    one, two = Machine(f"drpo{own}a", "10.77.0.1"), Machine(f"drpo{own}b", "10.77.0.2")
    try:
        for machine in (one, two):
            _ip("netns", "add", machine.name)
        _ip(
            *("link", "add", "eth7", "netns", one.name),
            *("type", "veth", "peer", "name", "eth7", "netns", two.name),
        )
        for machine in (one, two):
            _ip("-n", machine.name, "addr", "add", f"{machine.address}/24", "dev", "eth7")
            for link in ("lo", "eth7"):
                _ip("-n", machine.name, "link", "set", link, "up")
        yield one, two
    finally:
        for machine in (one, two):
            machine.kill()
            subprocess.run(["ip", "netns", "del", machine.name], check=False)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True).stdout
