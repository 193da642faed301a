"""Runs a program of `support` over families, and reads its line of JSON for each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]


def run(program: str, kinds: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What `python -m support.PROGRAM KIND…` finds, by family; all of them in one process."""
    done = subprocess.run(
        [sys.executable, "-m", f"support.{program}", *kinds],
        cwd=TESTS,
        env={
            "OMP_NUM_THREADS": "1",
            **os.environ,
            "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}",
        },
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {one["kind"]: one for one in lines}
