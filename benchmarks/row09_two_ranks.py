"""Samples/s of two ranks with one core each ÷ one rank with one core: training phase, whole step.

Two runs of one spec are open, one with one rank and one with two gloo ranks. Every rank is bound to
its own core, with one thread and its own vLLM engine. The runs take steps alternately: while one
works, the other sleeps. Both have the same number of samples per step (strong scaling): 32 prompts
× 8 responses of up to 64 tokens, of which about one in six ends early by chance, with a Qwen3 of
3.0 M parameters in float32, two updates, gradients reduced once per update.

The training phase is that of the loop: the check of the sync, advantages, and all updates, without
the time in which a rank waits for the other's rollout. A step is the loop's body, with the records.
With two ranks the slower one counts.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks._bench import Goal, Measured, Size
from benchmarks._ranks import Ranks, open_ranks
from benchmarks._run_case import open_case
from benchmarks._trainers import Shape, make_model
from drpo_cli.launch.launcher import prepare
from drpo_cli.spec import load

GOALS = (
    Goal("training phase: samples/s of two ranks ÷ of one", 1.7, at_most=False),
    Goal("whole step: samples/s of two ranks ÷ of one", 1.7, at_most=False),
)
PHASES = ("train", "step")
SHAPES: dict[Size, Shape] = {
    "full": Shape(320, 256, 704, layers=4, heads=4, kv_heads=2, head_dim=64, context=128),
    "smoke": Shape(320, 64, 128, layers=2, heads=2, kv_heads=1, head_dim=32, context=128),
}
PROMPTS: dict[Size, int] = {"full": 32, "smoke": 4}
PAIRS: dict[Size, int] = {"full": 5, "smoke": 1}
SPEC = """
[run]
name  = "{name}"
steps = 1000

[model]
path  = "model"
dtype = "float32"

[[data]]
type   = "arithmetic"
digits = 3

[rollout]
engine             = "vllm"
prompts_per_step   = {prompts}
samples_per_prompt = 8
max_new_tokens     = 64
context_length     = 128

[[reward]]
type       = "length"
soft_limit = 1
limit      = 64

[advantage]
type = "group_mean"

[objective]
type = "drpo"

[train]
updates_per_rollout = 2
minibatches         = "groups"

[eval]
every              = 0
problems           = 8
samples_per_prompt = 1

[checkpoint]
every = 0
"""


def measure(size: Size) -> Measured:
    """Measures as the module's docstring says."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "model", SHAPES[size])
        with (
            open_ranks(1, 1, open_case, folder=_prepare(folder, 1, size)) as one,
            open_ranks(2, 1, open_case, folder=_prepare(folder, 2, size)) as two,
        ):
            taken = [(_step(one), _step(two)) for _ in range(1 + PAIRS[size])][1:]
    figures = [tuple(_rate(b, phase) / _rate(a, phase) for a, b in taken) for phase in PHASES]
    notes = {"one_rank": [a for a, _ in taken], "two_ranks": [b for _, b in taken]}
    return Measured(tuple(figures), notes)


def _prepare(folder: Path, ranks: int, size: Size) -> Path:
    spec = folder / f"ranks-{ranks}.toml"
    spec.write_text(SPEC.format(name=spec.stem, prompts=PROMPTS[size]))
    return prepare(load(spec), resume=False, world=ranks).path


def _step(ranks: Ranks) -> dict[str, Any]:
    """Takes a step; returns the slowest rank's seconds of each phase, and the samples of all."""
    found = ranks.call("step")
    return {
        **{phase: max(own[phase] for own in found) for phase in PHASES},
        "samples": sum(own["samples"] for own in found),
    }


def _rate(taken: dict[str, Any], phase: str) -> float:
    """Samples/s."""
    return float(taken["samples"] / taken[phase])
