"""Run folders as a run writes them, without running it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from drpo_cli.runs.events import say
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.records import Records

SPEC = """
[run]
name = "{name}"
steps = {steps}
[model]
path = "model"
[objective]
type = "drpo"
"""


def metrics(step: int, **more: object) -> dict[str, Any]:
    """A step's metrics, as a run records them."""
    return {
        "step": step,
        "reward": 0.5 + step / 1000,
        "shift_p99": 0.1,
        "corrective_share": 0.02,
        "gap": 2e-7,
        "gap_floor": 1e-6,
        "entropy": 0.4 + math.sin(step) / 10,
        "grad_norm": 0.9,
        "response_length": 4.0,
        "truncated_share": 0.0,
        "rewards": {"exact_match": 0.5 + step / 1000},
        "skipped_samples": 0,
        "skipped_updates": 0,
        "seconds": {
            "rollout": 4.0,
            "reward": 1.0,
            "train": 3.0,
            "sync": 1.0,
            "evaluate": 1.0,
            "step": 10.0,
        },
        "tokens_per_second": {"rollout": 9000.0, "train": 8000.0},
        "peak_memory_gib": 1.5,
        **more,
    }


def sample(step: int, reward: float | None, completion: str, prompt: str = "12+34=") -> object:
    """A line of samples.jsonl."""
    return {"step": step, "prompt": prompt, "completion": completion, "reward": reward}


def run_folder(
    path: Path,
    records: Iterable[Mapping[str, Any]],
    samples: Iterable[Any] = (),
    steps: int = 9,
) -> RunFolder:
    """A folder with these records, and a spec with this number of steps."""
    path.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(path)
    folder.spec.write_text(SPEC.format(name=path.name, steps=steps))
    say(folder, "loading the model …", "starting")
    say(folder, "training …", "running")
    Records(folder.metrics).extend(records)
    Records(folder.samples).extend(samples)
    return folder
