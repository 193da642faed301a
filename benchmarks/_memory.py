"""Measures the peak memory of a piece of work, beyond what the process holds before it.

Linux keeps the high-water mark of a process's resident pages (VmHWM) and lets the process reset it
(proc(5), /proc/PID/clear_refs). It is exact to a few hundred KiB and complete: it includes the
working memory of matrix libraries and an engine's own allocations. torch's profiler and a dispatch
mode see only tensors and miss these. Unlike `ru_maxrss`, it does not include what the process took
while it started.
"""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

PROCESS = Path("/proc/self")
RESET_PEAK = "5"


def peak_extra_bytes(work: Callable[[], object]) -> int:
    """Returns how far `work` raised the resident bytes above those before it. Linux only."""
    return peak_above(release_unused(), work)


def release_unused() -> int:
    """Gives unused memory back to the system; returns the resident bytes that are left."""
    gc.collect()
    # free pages that are not given back would be used again without being counted
    ctypes.CDLL(None).malloc_trim(0)
    return _resident("VmRSS")


def peak_above(before: int, work: Callable[[], object]) -> int:
    """Returns the peak of resident bytes while `work` ran, minus `before`. Linux only."""
    (PROCESS / "clear_refs").write_text(RESET_PEAK)
    work()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", (PROCESS / "status").read_text())
    assert found is not None, f"this kernel's /proc/self/status has no {field}"
    return int(found[1]) * 1024
