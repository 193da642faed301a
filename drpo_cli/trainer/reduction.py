"""How the token losses of an update become one number: the only place that divides by a count.

With N tokens in E episodes y_1 … y_E, over all micro-batches and ranks, and a horizon H:

    token_mean      Σ_i Σ_t loss_it / N              (DAPO, arXiv 2503.14476, Eq. 8)
    sequence_mean   Σ_i (Σ_t loss_it / |y_i|) / E    (GRPO, arXiv 2402.03300, Eq. 3)
    fixed_horizon   Σ_i (Σ_t loss_it / H) / E        (Dr. GRPO, arXiv 2503.20783)

Only tokens that have a loss count (`Experience.loss_mask_T`), and episodes with at least one. A
response to a prompt is an episode of one turn. Of one with several turns, y_i is all that the
policy sampled in it, whatever it was shown between, and however many rows it takes:

- token_mean weighs an episode by the tokens sampled in it, so long ones count most;
- sequence_mean weighs every episode the same, and a turn by its share of its episode's tokens;
- fixed_horizon weighs every token the same, by a constant that does not depend on any length.
"""

from __future__ import annotations

import math

from drpo_cli.dist import World
from drpo_cli.experience import Experience
from drpo_cli.settings import TrainSettings


def scales(exp: Experience, settings: TrainSettings, world: World) -> list[float] | None:
    """The factor of each row's token losses that makes their sum the loss of the update, [S].

    Every row must have a token with a loss, and `counted_S` those of its whole episode, of which
    the other rows may be on other ranks. None, on every rank alike, if no rank has a row.
    Collective.
    """
    own, counts = exp.loss_tokens_S.tolist(), exp.counted_S.tolist()
    # an episode in one row is exactly 1; the parts of one in several add up to it
    shares = [part / count for part, count in zip(own, counts, strict=True)]
    tokens, episodes = world.sum([sum(own), math.fsum(shares)])
    if not tokens:
        return None
    if settings.reduction == "token_mean":
        return [1 / tokens for _ in counts]
    if settings.reduction == "sequence_mean":
        return [1 / (episodes * count) for count in counts]
    if settings.horizon is None:
        raise ValueError("fixed_horizon needs a horizon; step.build sets it")
    return [1 / (episodes * settings.horizon) for _ in counts]
