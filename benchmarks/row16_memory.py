"""Peak memory of `drpo train`, in GiB: a model of 268 M weights, float32, with vLLM.

Two steps of a random model with the shape of Gemma 3 270M (262,144 words, 64 % of the weights),
each of 16 responses of 11 tokens. The peak is what the run itself records: the resident pages of
the process that holds trainer and engine. `drpo plan` says what they are.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._bench import Goal, Measured, Size
from benchmarks._trainers import Shape, make_model

GOAL = Goal("peak memory of a run with 268 M weights, GiB", 9.0, at_most=True)
DRPO = str(Path(sys.executable).with_name("drpo"))
GEMMA_270M = Shape(262_144, 640, 2048, layers=18, heads=4, kv_heads=1, head_dim=256, context=512)
SMALL = Shape(512, 64, 128, layers=2, heads=2, kv_heads=1, head_dim=32, context=512)
SPEC = """
run = {name = "memory", steps = 2}
model = {path = "model", dtype = "float32"}
data = [{type = "arithmetic"}]
rollout = {engine = "vllm", prompts_per_step = 4, samples_per_prompt = 4, max_new_tokens = 11, \
context_length = 128}
reward = [{type = "exact_match"}]
train = {updates_per_rollout = 1, learning_rate = 1e-6}
eval = {every = 0, problems = 4, samples_per_prompt = 1}
checkpoint = {every = 0}
"""


def measure(size: Size) -> Measured:
    """Measures as the module's docstring says."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "model", GEMMA_270M if size == "full" else SMALL)
        (folder / "run.toml").write_text(SPEC)
        subprocess.run([DRPO, "train", str(folder / "run.toml")], check=True)
        (metrics,) = folder.glob("runs/*/metrics.jsonl")
        last = json.loads(metrics.read_text().splitlines()[-1])
    return Measured(((last["peak_memory_gib"],),))
