"""Samples a second of the whole step ÷ TRL's, responses of ragged lengths, vLLM on both sides.

The model and the lengths of row 2, 16 prompts × 8 responses; both sides sample from a vLLM of the
same version in the trainer's own process, float32, EOS ignored, each request as long as was drawn
for it. A step is weights into the engine, sampling, rewards (a trivial one) and training; what each
side's takes in is in `_peer_ours` and `_peer_trl`. TRL's engine is compiled, as TRL leaves it.

TRL recomputes old log-probs, as it does by default beside vLLM, to correct for the difference
between the two; the notes say what of its step that took (`old_log_probs`). Ours needs none: μ is
its anchor. Two things are changed in TRL, since without them it does not run here, or not on the
same terms: its sync, which fails on a CPU once vLLM has packed its weights ('Parameter' object has
no attribute 'weight_loader'), is ours; and vLLM, which makes bfloat16 of a float32 model when it is
told nothing, is told float32.
"""

from __future__ import annotations

import random

from benchmarks._bench import Goal, Measured, Size
from benchmarks._peers import against_trl, log_uniform

GOAL = Goal("samples/s of the whole step ÷ TRL's, ragged lengths", 3.0, at_most=False)


def measure(size: Size) -> Measured:
    """Both sides in turn; one figure a pair."""
    if size == "smoke":
        return against_trl("step", (4, 4), _short, microbatch=8, pairs=2)
    return against_trl("step", (16, 8), _lengths, microbatch=32, pairs=3)


def _lengths(rng: random.Random) -> tuple[int, int]:
    return rng.randint(16, 64), log_uniform(rng, 8, 512)


def _short(rng: random.Random) -> tuple[int, int]:
    return rng.randint(8, 16), log_uniform(rng, 4, 64)
