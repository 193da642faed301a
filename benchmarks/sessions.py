"""What Python sessions of the sandbox cost: to start, per call, and while they compute nothing."""

from __future__ import annotations

import statistics
import sys
import time

import psutil

from drpo_cli.sandbox.run import find_backend
from drpo_cli.sandbox.session import Session

SESSIONS, CALLS, IDLE_S = 32, 100, 10.0


def measure() -> tuple[float, float]:
    """Processor seconds and MiB of everything below this process."""
    seconds, size = 0.0, 0
    for process in psutil.Process().children(recursive=True):
        times = process.cpu_times()
        seconds += times.user + times.system
        size += process.memory_full_info().pss
    return seconds, size / 2**20


def timed(session: Session) -> float:
    began = time.perf_counter()
    session.run("x = 1\nx + 1")
    return time.perf_counter() - began


def main() -> None:
    """Prints the figures."""
    backend = find_backend("auto")
    began = time.perf_counter()
    sessions = [Session(backend=backend) for _ in range(SESSIONS)]
    start = (time.perf_counter() - began) / SESSIONS
    calls = [timed(session) for session in sessions for _ in range(CALLS)]
    before, _ = measure()
    began = time.perf_counter()
    time.sleep(IDLE_S)
    after, size = measure()
    cores = (after - before) / (time.perf_counter() - began)
    began = time.perf_counter()
    for session in sessions:
        session.close()
    end = (time.perf_counter() - began) / SESSIONS
    sys.stdout.write(
        f"{start:.3f} s to start, {1000 * statistics.median(calls):.2f} ms per call, "
        f"{end:.3f} s to end, {size / SESSIONS:.1f} MiB; "
        f"{SESSIONS} idle ones take {100 * cores:.1f} % of a core\n"
    )


if __name__ == "__main__":
    main()
