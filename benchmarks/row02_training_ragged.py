"""Trained tokens per second of the training phase ÷ TRL's, responses of ragged lengths.

The model and the sides of row 1; both get 32 prompts of 16 to 64 tokens × 8 responses of 8 to 512
tokens, log-uniform; one update. TRL pads all responses to the longest. It takes 32 samples per
pass: on a quarter of this work with one thread, its processor time differed by less than a tenth
between 8 and 32 samples, and was a third more at 64, all of it in the system (memory).
"""

from __future__ import annotations

import random

from benchmarks._bench import Goal, Measured, Size
from benchmarks._peers import against_trl, log_uniform

GOAL = Goal("trained tokens/s ÷ TRL's, ragged lengths", 4.0, at_most=False)


def measure(size: Size) -> Measured:
    """Measures both sides alternately; one figure per pair."""
    if size == "smoke":
        return against_trl("training", (4, 4), _short, microbatch=8, pairs=2)
    return against_trl("training", (32, 8), _lengths, microbatch=32, pairs=3)


def _lengths(rng: random.Random) -> tuple[int, int]:
    return rng.randint(16, 64), log_uniform(rng, 8, 512)


def _short(rng: random.Random) -> tuple[int, int]:
    return rng.randint(8, 16), log_uniform(rng, 4, 64)
