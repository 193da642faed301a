"""Cores and threads, memory, shared memory, and what the system lets a user open and start."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from drpo_cli.processes import cores
from drpo_cli.tools.doctor.findings import Finding, ok, warning, wrong

GIB = 2**30
SHARED = Path("/dev/shm")
_FILES, _PROCESSES = 4096, 1024
_PIDS = Path("/sys/fs/cgroup/pids.max")


def threads(gpus: int) -> Iterator[Finding]:
    """Cores, and what OMP_NUM_THREADS makes of them."""
    have, asked = cores(), os.environ.get("OMP_NUM_THREADS")
    text = f"{have} core{'s' * (have > 1)}"
    share = max(1, have // max(1, gpus))
    if asked is None:
        yield ok("CPU", f"{text}, {share} thread{'s' * (share > 1)} a process")
    elif not asked.isdecimal() or not int(asked):
        found = f"{text}; OMP_NUM_THREADS is {asked!r}, which is no number of threads"
        yield warning("CPU", found, f"unset OMP_NUM_THREADS, or set it to {share}")
    elif int(asked) > share:
        found = f"{text}; OMP_NUM_THREADS is {asked}: threads that fight over cores wait busily"
        yield warning("CPU", found, f"unset OMP_NUM_THREADS, or set it to {share}")
    elif int(asked) < share and not gpus:
        found = f"{text}; OMP_NUM_THREADS is {asked}, so a process uses {asked} of them"
        yield warning(
            "CPU", found, f"unset OMP_NUM_THREADS, unless --nproc {have // int(asked)} is meant"
        )
    else:
        yield ok("CPU", f"{text}, OMP_NUM_THREADS {asked}")


def memory() -> Iterator[Finding]:
    """Main memory."""
    import psutil

    found = psutil.virtual_memory()
    free, total = found.available / GIB, found.total / GIB
    text = f"{total:.1f} GiB, {free:.1f} GiB free"
    if free < 2:
        yield warning("memory", text, "end what else runs; torch and an engine alone take 2 GiB")
    else:
        yield ok("memory", text)


def shared_memory(gpus: int) -> Iterator[Finding]:
    """/dev/shm, through which NCCL's ranks and data loaders' processes exchange tensors."""
    if not SHARED.is_dir():
        yield warning("shared memory", f"there is no {SHARED}", "mount a tmpfs there")
        return
    usage = shutil.disk_usage(SHARED)
    text = f"{SHARED}: {usage.total / GIB:.2f} GiB, {usage.free / GIB:.2f} GiB free"
    if not os.access(SHARED, os.W_OK):
        yield wrong("shared memory", f"{text}, not writable", f"chmod 1777 {SHARED}")
    elif usage.free < (GIB if gpus > 1 else GIB // 16):
        yield warning("shared memory", text, "docker run --shm-size=8g, or --ipc=host")
    else:
        yield ok("shared memory", text)


def limits(processes: int) -> Iterator[Finding]:
    """Open files and processes; a run starts about so many processes for its rewards."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    started = min(_most_processes())
    shown = [_count(files), _count(started)]
    text = f"{shown[0]} open files, {shown[1]} processes"
    fixes = []
    if 0 <= files < _FILES:
        fixes.append(f"ulimit -n {_FILES}")
    if started < _PROCESSES + processes:
        fixes.append(f"ulimit -u {_PROCESSES + processes}; in docker, --pids-limit -1")
    if fixes:
        yield warning("limits", text, "; ".join(fixes))
    else:
        yield ok("limits", text)


def _most_processes() -> list[float]:
    most, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    unlimited = most == resource.RLIM_INFINITY
    group = _PIDS.read_text().strip() if _PIDS.is_file() else "max"
    return [
        float("inf") if unlimited else most,
        float(group) if group.isdecimal() else float("inf"),
    ]


def _count(number: float) -> str:
    return "any number of" if number < 0 or number == float("inf") else f"{number:,.0f}"
