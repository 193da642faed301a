"""What this machine lets a process have; asks the system alone, and loads nothing heavy."""

from __future__ import annotations

import os


def cores() -> int:
    """CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
