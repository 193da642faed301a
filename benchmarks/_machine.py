"""The machine that a bench ran on, and the commit of the code."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil

from drpo_cli.dist import cores
from drpo_cli.runs.versions import versions

ROOT = Path(__file__).parents[1]


def facts() -> dict[str, Any]:
    """Machine, commit, versions, and the environment variables that change speed."""
    return {
        "machine": f"{_processor()}, {cores()} cores, {_memory_gib()} GiB",
        "platform": platform.platform(),
        "python": platform.python_version(),
        "commit": commit(),
        "packages": versions(),
        "environment": {
            name: os.environ[name]
            for name in ("OMP_NUM_THREADS", "KMP_AFFINITY", "LD_PRELOAD", "MALLOC_ARENA_MAX")
            if name in os.environ
        },
    }


def commit() -> str:
    """The commit of the working tree, with `+` if files differ from it."""
    head = _git("rev-parse", "--short=12", "HEAD")
    return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> int:
    return round(psutil.virtual_memory().total / 2**30)
