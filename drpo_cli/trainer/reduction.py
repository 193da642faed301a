"""How the token losses of an update become one number: the only place that divides by a count.

With N tokens in S responses y_1 … y_S, over all micro-batches and ranks, and a horizon H:

    token_mean      Σ_i Σ_t loss_it / N              (DAPO, arXiv 2503.14476, Eq. 8)
    sequence_mean   Σ_i (Σ_t loss_it / |y_i|) / S    (GRPO, arXiv 2402.03300, Eq. 3)
    fixed_horizon   Σ_i (Σ_t loss_it / H) / S        (Dr. GRPO, arXiv 2503.20783)
"""

from __future__ import annotations

from collections.abc import Sequence

from drpo_cli.dist import World
from drpo_cli.settings import TrainSettings
from drpo_cli.trainer.pack import Sample


def scales(samples: Sequence[Sample], settings: TrainSettings, world: World) -> list[float] | None:
    """What each sample's token losses are multiplied with, so that their sum is the update's loss.

    None, on every rank alike, where no rank has a token. Collective.
    """
    counts = [len(sample.response_ids) for sample in samples]
    tokens, responses = world.sum([sum(counts), len(counts)])
    if not tokens:
        return None
    if settings.reduction == "token_mean":
        return [1 / tokens for _ in counts]
    if settings.reduction == "sequence_mean":
        return [1 / (responses * count) for count in counts]
    if settings.horizon is None:
        raise ValueError("fixed_horizon without a horizon: the assembly has to set it")
    return [1 / (responses * settings.horizon) for _ in counts]
