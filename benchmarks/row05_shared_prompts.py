"""The training phase with long prompts computed once per group ÷ computed once per sample.

`Trainer.step` on 8 prompts of 512 tokens with 8 responses of 64 each, the model of rows 1 and 2, in
float32. On the other side every sample's prompt has another first token, so that none is shared.
The test suite compares the gradients of samples with and without sharing
(tests/unit/test_trainer_step.py).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks._bench import Goal, Measured, Size, ratios, time_pairs
from benchmarks._peers import MODEL
from benchmarks._ranks import alone
from benchmarks._trainers import apart, make_model, on_policy, open_trainer, random_rows, step

GOAL = Goal("shared ÷ unshared, prompt 512, 8 responses of 64", 0.35, at_most=True)
PROMPTS: dict[Size, int] = {"full": 8, "smoke": 1}
PAIRS: dict[Size, int] = {"full": 5, "smoke": 2}


def measure(size: Size) -> Measured:
    """See the module."""
    batch = random_rows([(512, 8)] * PROMPTS[size], 64, MODEL.vocabulary)
    with tempfile.TemporaryDirectory() as folder, alone() as world:
        trainer = open_trainer(make_model(Path(folder) / "model", MODEL), world)
        together, own = on_policy(trainer, batch), on_policy(trainer, apart(batch))
        taken = time_pairs(lambda: step(trainer, together), lambda: step(trainer, own), PAIRS[size])
    return Measured((ratios(taken),), {"seconds_shared_unshared": taken})
