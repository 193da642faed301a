"""The training phase with 4 updates per rollout ÷ the same with 1.

Two trainers of the model of rows 1 and 2, in float32, run `Trainer.step` on the same 256 samples:
packing, one forward and backward pass over every sample, clipping and AdamW, once or 4 times, with
mini-batches of whole groups. log μ is the model's own, so that no token is outside the trust
region.
"""

from __future__ import annotations

import random
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._bench import Goal, Measured, Size, ratios, time_pairs
from benchmarks._peers import MODEL, log_uniform
from benchmarks._ranks import alone
from benchmarks._trainers import cut, make_model, on_policy, open_trainer, random_rows, step

if TYPE_CHECKING:
    from drpo_cli.experience import Experience

GOALS = (
    Goal("4 updates ÷ 1, lengths equal as in row 1", 1.1, at_most=True),
    Goal("4 updates ÷ 1, lengths ragged as in row 2", 1.1, at_most=True),
)
UPDATES = 4
SAMPLES: dict[Size, tuple[int, int]] = {"full": (32, 8), "smoke": (4, 4)}
PAIRS: dict[Size, tuple[int, int]] = {"full": (11, 5), "smoke": (2, 2)}


def measure(size: Size) -> Measured:
    """Measures as the module's docstring says."""
    batches = (_equal(*SAMPLES[size]), _ragged(*SAMPLES[size]))
    with tempfile.TemporaryDirectory() as folder, alone() as world:
        model = make_model(Path(folder) / "model", MODEL)
        once = open_trainer(model, world)
        often = open_trainer(model, world, updates_per_rollout=UPDATES, minibatches="groups")
        taken = []
        for batch, pairs in zip(batches, PAIRS[size], strict=True):
            known = on_policy(once, batch)
            taken.append(time_pairs(partial(step, often, known), partial(step, once, known), pairs))
    notes: dict[str, Any] = {
        "updates": UPDATES,
        "seconds_often_once": taken,
        "trained_tokens": [len(batch.token_T) for batch in batches],
    }
    return Measured(tuple(ratios(pairs) for pairs in taken), notes)


def _equal(prompts: int, size: int) -> Experience:
    return random_rows([(16, size)] * prompts, 32, MODEL.vocabulary)


def _ragged(prompts: int, size: int) -> Experience:
    rng = random.Random(0)
    groups = random_rows(
        [(rng.randint(16, 64), size) for _ in range(prompts)], 512, MODEL.vocabulary
    )
    return cut(groups, [log_uniform(rng, 8, 512) for _ in range(len(groups))])
