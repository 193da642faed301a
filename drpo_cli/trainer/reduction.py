"""How the token losses of an update become one number: the only place that divides by a count.

With N tokens in S responses y_1 … y_S, over all micro-batches and ranks, and a horizon H:

    token_mean      Σ_i Σ_t loss_it / N              (DAPO, arXiv 2503.14476, Eq. 8)
    sequence_mean   Σ_i (Σ_t loss_it / |y_i|) / S    (GRPO, arXiv 2402.03300, Eq. 3)
    fixed_horizon   Σ_i (Σ_t loss_it / H) / S        (Dr. GRPO, arXiv 2503.20783)

Only tokens that have a loss count (`Experience.loss_mask_T`), and responses with at least one.
"""

from __future__ import annotations

from drpo_cli.dist import World
from drpo_cli.experience import Experience
from drpo_cli.settings import TrainSettings


def scales(exp: Experience, settings: TrainSettings, world: World) -> list[float] | None:
    """The factor of each row's token losses that makes their sum the loss of the update, [S].

    Every row must have a token with a loss. None, on every rank alike, if no rank has a row.
    Collective.
    """
    counts = exp.loss_tokens_S.tolist()
    tokens, responses = world.sum([sum(counts), len(counts)])
    if not tokens:
        return None
    if settings.reduction == "token_mean":
        return [1 / tokens for _ in counts]
    if settings.reduction == "sequence_mean":
        return [1 / (responses * count) for count in counts]
    if settings.horizon is None:
        raise ValueError("fixed_horizon needs a horizon; step.build sets it")
    return [1 / (responses * settings.horizon) for _ in counts]
