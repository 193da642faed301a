"""A whole `drpo train` with the transformers engine, then a resume: the path that needs no vLLM."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._trainers import Shape, make_model
from benchmarks.gpu._finding import Finding, Findings, Size, at_most, holds

SHAPE = Shape(512, 256, 512, layers=2, heads=4, kv_heads=2, head_dim=64, context=256)
STEPS: dict[Size, int] = {"full": 4, "smoke": 2}
SPEC = """
[run]
name = "gpu"
steps = {steps}
report_every = 0
[model]
path = "model"
dtype = "{dtype}"
[[data]]
type = "arithmetic"
[rollout]
engine = "transformers"
prompts_per_step = 16
samples_per_prompt = 8
max_new_tokens = 16
context_length = 64
[[reward]]
type = "length"
limit = 16
soft_limit = 2
[train]
updates_per_rollout = 2
learning_rate = 1e-3
[eval]
problems = 8
samples_per_prompt = 2
[checkpoint]
every = 1
"""
GAPS: dict[Size, dict[str, float]] = {
    "full": {"float32": 1e-3, "bfloat16": 0.1},
    "smoke": {"bfloat16": 0.1},
}


def measure(size: Size) -> Findings:
    """Yields for each dtype whether the run ends, resumes, and how far engine and trainer are."""
    for dtype, bound in GAPS[size].items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            make_model(folder / "model", SHAPE)
            yield from _run(folder, dtype, bound, STEPS[size])


def _run(folder: Path, dtype: str, bound: float, steps: int) -> Findings:
    spec = folder / "run.toml"
    spec.write_text(SPEC.format(steps=steps, dtype=dtype))
    began = _train(spec)
    yield holds(f"{dtype}: drpo train ends with exit code 0", began.returncode == 0, began.stderr)
    done = _train(spec, "--resume", "--set", f"run.steps={steps + 1}")
    yield holds(f"{dtype}: and so it resumes for a step more", done.returncode == 0, done.stderr)
    lines = (folder / "runs" / "gpu" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [json.loads(line) for line in lines][1:]
    yield holds(f"{dtype}: every step is recorded", len(metrics) == steps + 1, str(len(metrics)))
    gap = max(record["gap"] for record in metrics)
    yield at_most(f"{dtype}: largest gap, mean |log π − log μ|", gap, bound, "nats")
    yield Finding(f"{dtype}: a step", metrics[-1]["seconds"]["step"], "s")


def _train(spec: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "drpo_cli", "train", str(spec), "--nproc", "1", *more]
    return subprocess.run(command, capture_output=True, text=True)
