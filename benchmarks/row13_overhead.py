"""The share of a step's wall-clock time that is not in the phases rollout, train and sync.

`drpo train` of the quickstart, as a user starts it, on a terminal, so that the live view is part of
the cost; without evaluations and checkpoints. The time of a step is that between the appearance of
its line in metrics.jsonl and of the line before, seen from here, so it includes what no phase
times, such as the time between two steps. The first step, a warm-up, and the last, which always
evaluates and saves, do not count. Each figure is the sum over 10 steps.

The phase train also includes advantages and the replay of a group that proves the last sync; the
phase rollout includes rewards that are computed during the sampling.
"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks._bench import Goal, Measured, Size
from drpo_cli.tools import tiny

GOAL = Goal("share of a step outside rollout, train and sync", 0.03, at_most=True)
DRPO = str(Path(sys.executable).with_name("drpo"))
LOOK_EVERY = 0.001  # seconds; a step takes several hundred times as long
PHASES = ("rollout", "train", "sync")
BLOCK: dict[Size, int] = {"full": 10, "smoke": 2}  # steps of one figure
BLOCKS: dict[Size, int] = {"full": 7, "smoke": 2}


def measure(size: Size) -> Measured:
    """Measures as the module's docstring says."""
    steps = BLOCK[size] * BLOCKS[size] + 2
    with tempfile.TemporaryDirectory() as folder:
        demo = Path(folder) / "demo"
        subprocess.run([DRPO, "init", str(demo), "--template", "quickstart"], check=True)
        if size == "smoke":  # the quickstart's own model would first train for a minute
            tiny.make(demo / "model")
        seen = _train(demo, steps)
    blocks = [seen[i : i + BLOCK[size] + 1] for i in range(0, steps - 2, BLOCK[size])]
    figures = tuple(_outside(block) for block in blocks)
    return Measured((figures,), _notes(seen[:-1]))


def _train(demo: Path, steps: int) -> list[tuple[float, dict[str, Any]]]:
    """Runs `drpo train`; returns each step's record, and the time at which it appeared."""
    options = {"run.steps": steps, "eval.every": 0, "checkpoint.every": 0}
    sets = [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
    with _terminal() as screen:
        process = subprocess.Popen(
            [DRPO, "train", str(demo / "run.toml"), *sets], stdout=screen, stderr=screen
        )
        seen = list(_follow(demo / "runs/quickstart/metrics.jsonl", process))
    if process.returncode:
        raise RuntimeError(f"drpo train ended with code {process.returncode}")
    return [(at, record) for at, record in seen if record["step"] > 0]


def _follow(path: Path, process: subprocess.Popen[bytes]) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yields each line of a growing file with its time, until the process has ended."""
    read, running = 0, True
    while running:
        running = process.poll() is None
        size = path.stat().st_size if path.exists() else 0
        if size > read:
            now = time.perf_counter()
            with path.open("rb") as file:
                file.seek(read)
                lines = file.read(size - read).splitlines(keepends=True)
            for line in lines:
                if line.endswith(b"\n"):
                    read += len(line)
                    yield now, json.loads(line)
        time.sleep(LOOK_EVERY)


def _outside(block: list[tuple[float, dict[str, Any]]]) -> float:
    """The share of a block's time, its first step left out, that is in none of the three phases."""
    wall = block[-1][0] - block[0][0]
    inside = sum(record["seconds"][phase] for _, record in block[1:] for phase in PHASES)
    return 1 - inside / wall


def _notes(seen: list[tuple[float, dict[str, Any]]]) -> dict[str, Any]:
    steps, wall = len(seen) - 1, seen[-1][0] - seen[0][0]
    phases: Counter[str] = Counter()
    for _, record in seen[1:]:
        phases.update(record["seconds"])
    timed = phases.pop("step")
    return {
        "steps": steps,
        "wall_seconds_per_step": wall / steps,
        "phase_seconds_per_step": {name: total / steps for name, total in phases.items()},
        # `log` and `checkpoint` of a step are recorded with the next step
        "in_no_phase_seconds_per_step": (wall - timed) / steps,
    }


@contextmanager
def _terminal() -> Iterator[int]:
    """Opens a terminal whose output is read and thrown away."""
    ours, theirs = pty.openpty()
    reader = threading.Thread(target=_read_all, args=(ours,), daemon=True)
    reader.start()
    try:
        yield theirs
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)


def _read_all(handle: int) -> None:
    try:
        while os.read(handle, 65536):
            pass
    except OSError:  # on Linux EIO means that the other end is closed
        return
