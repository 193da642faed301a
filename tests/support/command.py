"""Runs the `drpo` command as a user does, and reads what its runs leave."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

from drpo_cli.cli import main

VARIES = (  # from one run of a step to the next
    "seconds", "tokens_per_second", "peak_memory_gib", "idle_share"
)  # fmt: skip
SLOW = ("seconds", "slowest", "answer_s", "slowest_s")  # and of each reward and environment
LATENCIES = ("sampling_s", "answer_s")  # and of each turn of a sample
PATIENCE = 300


def drpo(
    *arguments: object, typed: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end; `typed` comes from a pipe."""
    return subprocess.run(
        _command(arguments),
        input=typed,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def drpo_here(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a verb that starts no run in this process, which has imported all that it needs."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        patch.dict(os.environ, environment),
        patch.object(sys, "argv", ["drpo", *map(str, arguments)]),
        patch.object(sys, "excepthook", sys.excepthook),
        patch("drpo_cli.cli.guard_streams"),  # it writes to the process's own streams
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(
        list(map(str, arguments)), code, out.getvalue(), err.getvalue()
    )


def drpo_until(metrics: Path, step: int, number: signal.Signals, *arguments: object) -> int:
    """Starts the command, sends it a signal once it has recorded a step, returns its code."""
    with subprocess.Popen(
        _command(arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        deadline = time.monotonic() + PATIENCE
        while not any(record["step"] >= step for record in records(metrics)):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, f"step {step} was never recorded"
            time.sleep(0.05)
        process.send_signal(number)
        process.communicate(timeout=PATIENCE)
        return process.returncode


def records(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a records file, as they are on disk."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def reproducible(path: Path) -> list[dict[str, Any]]:
    """Metrics without times and memory."""
    return [timeless(line) for line in records(path)]


def timeless(line: dict[str, Any]) -> dict[str, Any]:
    """A step's metrics without times and memory."""
    kept = {k: v for k, v in line.items() if k not in VARIES}
    for key in ("grading", "environments"):
        if key in line:
            kept[key] = {
                name: {k: v for k, v in usage.items() if k not in SLOW}
                for name, usage in line[key].items()
            }
    if "turns" in line and isinstance(line["turns"], list):
        kept["turns"] = [
            {k: v for k, v in turn.items() if k not in LATENCIES} for turn in line["turns"]
        ]
    return kept


def _command(arguments: tuple[object, ...]) -> list[str]:
    return [sys.executable, "-m", "drpo_cli", *map(str, arguments)]
