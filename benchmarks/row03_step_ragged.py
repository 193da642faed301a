"""Samples per second of the whole step ÷ TRL's, responses of ragged lengths, vLLM on both sides.

The model and the lengths of row 2, 16 prompts × 8 responses. Both sides sample from a vLLM of the
same version in the trainer's own process, in float32, with EOS ignored and the length that was
drawn for each request. A step is: weights into the engine, sampling, rewards (a trivial one) and
training; `_peer_ours` and `_peer_trl` say what each side's step includes. TRL's engine is compiled,
which is TRL's default.

TRL recomputes old log-probs, its default with vLLM, to correct for the difference between trainer
and engine; the notes have the time of that (`old_log_probs`). Our side does not need them: its
ratio is to μ. Two things are changed in TRL, since without them it does not run here, or not under
equal conditions: it uses our sync, since its own fails on a CPU when vLLM has packed its weights
('Parameter' object has no attribute 'weight_loader'); and vLLM, which by default runs a float32
model in bfloat16, runs it in float32.
"""

from __future__ import annotations

import random

from benchmarks._bench import Goal, Measured, Size
from benchmarks._peers import against_trl, log_uniform

GOAL = Goal("samples/s of the whole step ÷ TRL's, ragged lengths", 3.0, at_most=False)


def measure(size: Size) -> Measured:
    """Measures both sides alternately; one figure per pair."""
    if size == "smoke":
        return against_trl("step", (4, 4), _short, microbatch=8, pairs=2)
    return against_trl("step", (16, 8), _lengths, microbatch=32, pairs=3)


def _lengths(rng: random.Random) -> tuple[int, int]:
    return rng.randint(16, 64), log_uniform(rng, 8, 512)


def _short(rng: random.Random) -> tuple[int, int]:
    return rng.randint(8, 16), log_uniform(rng, 4, 64)
