"""The share of a step's wall-clock that is not in the phases rollout, train and sync.

`drpo train` of the quickstart, as a user starts it, on a terminal, so that the live screen is part
of what a step costs; without evaluations and checkpoints. A step's wall-clock is the time between
the appearance of its line and of the line before in metrics.jsonl, watched from here: what no phase
times, such as the way from one step to the next, is in it too. The first step, which warms up, and
the last, which evaluates and saves in any case, are left out; each figure is 10 steps' sum.

In the phases are, besides what their names say: advantages and the replay of a group that proves
the last sync (train); rewards, as long as they hide behind the sampling (rollout).
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
LOOK_EVERY = 0.001  # seconds; of a step that takes several hundred times as long
PHASES = ("rollout", "train", "sync")
BLOCK: dict[Size, int] = {"full": 10, "smoke": 2}  # steps of one figure
BLOCKS: dict[Size, int] = {"full": 7, "smoke": 2}


def measure(size: Size) -> Measured:
    """See the module."""
    steps = BLOCK[size] * BLOCKS[size] + 2
    with tempfile.TemporaryDirectory() as folder:
        demo = Path(folder) / "demo"
        subprocess.run([DRPO, "init", str(demo), "--template", "quickstart"], check=True)
        if size == "smoke":  # the quickstart's own model is trained for a minute first
            tiny.make(demo / "model")
        seen = _trained(demo, steps)
    blocks = [seen[i : i + BLOCK[size] + 1] for i in range(0, steps - 2, BLOCK[size])]
    figures = tuple(_outside(block) for block in blocks)
    return Measured((figures,), _notes(seen[:-1]))


def _trained(demo: Path, steps: int) -> list[tuple[float, dict[str, Any]]]:
    """Runs `drpo train`; each step's record, with the moment at which it was there."""
    options = {"run.steps": steps, "eval.every": 0, "checkpoint.every": 0}
    sets = [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
    with _terminal() as screen:
        process = subprocess.Popen(
            [DRPO, "train", str(demo / "run.toml"), *sets], stdout=screen, stderr=screen
        )
        seen = list(_appearing(demo / "runs/quickstart/metrics.jsonl", process))
    if process.returncode:
        raise RuntimeError(f"drpo train ended with code {process.returncode}")
    return [(at, record) for at, record in seen if record["step"] > 0]


def _appearing(
    path: Path, process: subprocess.Popen[bytes]
) -> Iterator[tuple[float, dict[str, Any]]]:
    """Each line of a growing file and when it came, until the process has ended."""
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
    """The share of the steps after the first of a block that is in none of the three phases."""
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
        # `log` and `checkpoint` of a step are told with the next one's
        "in_no_phase_seconds_per_step": (wall - timed) / steps,
    }


@contextmanager
def _terminal() -> Iterator[int]:
    """A terminal that nobody looks at: whatever is written to it is read and thrown away."""
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
    except OSError:  # Linux says that the other end is closed by EIO
        return
