"""How much memory a piece of work takes at its peak, beyond what the process holds before it.

Linux keeps the high-water mark of a process' resident pages (VmHWM) and lets the process reset it
(proc(5), /proc/PID/clear_refs). That is exact to a few hundred KiB and leaves nothing out: the
scratch of matrix libraries and an engine's own allocations are in it, which torch's profiler and a
dispatch mode, that see tensors only, both miss; and, unlike `ru_maxrss`, whatever the process took
while it started is not.
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
    """The most resident bytes that `work` held above those before it. Linux only."""
    return since(settled(), work)


def settled() -> int:
    """Resident bytes, once everything that is not in use has been given back."""
    gc.collect()
    # pages that are free but not given back would be used again without being counted
    ctypes.CDLL(None).malloc_trim(0)
    return _resident("VmRSS")


def since(before: int, work: Callable[[], object]) -> int:
    """The most resident bytes while `work` ran, above `before`. Linux only."""
    (PROCESS / "clear_refs").write_text(RESET_PEAK)
    work()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", (PROCESS / "status").read_text())
    assert found is not None, f"this kernel's /proc/self/status has no {field}"
    return int(found[1]) * 1024
