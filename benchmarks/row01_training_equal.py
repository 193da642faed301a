"""Trained tokens per second of the training phase ÷ TRL's, all responses of one length.

A Qwen3 of 3.2 M random parameters in float32; both sides get 32 prompts of 16 tokens × 8 responses
of exactly 32; one update. `_peer_ours` and `_peer_trl` say what counts as the training phase. TRL
takes 64 samples per pass, the best of 16, 32, 64 and 256; nothing is padded.
"""

from __future__ import annotations

from benchmarks._bench import Goal, Measured, Size
from benchmarks._peers import against_trl

GOAL = Goal("trained tokens/s ÷ TRL's, equal lengths", 1.5, at_most=False)


def measure(size: Size) -> Measured:
    """Measures both sides alternately; one figure per pair."""
    if size == "smoke":
        return against_trl("training", (4, 4), lambda rng: (16, 8), microbatch=16, pairs=2)
    return against_trl("training", (32, 8), lambda rng: (16, 32), microbatch=64, pairs=7)
