"""Generalised advantage estimation: an advantage per token, from a learned critic.

Over the tokens that the policy sampled, with the reward r_t of a turn given at its last token,
V_{T+1} = 0 and discount γ:

    δ_t = r_t + γ V_{t+1} − V_t,    A_t = Σ_l (γ λ)^l δ_{t+l}

arXiv 1506.02438, Eq. 16. λ = 1 gives return minus value, λ = 0 the one-step error. PPO
(arXiv 1707.06347) trains on it. It needs a `[critic]`. A truncated response ends like any other:
the value beyond its last token counts as 0.

The token after the last of a turn is the first of the next: what the policy is shown between them
has no value and takes no discount. With `level = "turn"`, t counts turns: V_t is the value before
the first token of a turn, and A_t the advantage of all its tokens (turn-PPO, arXiv 2512.17008,
takes the turn for the action in the same way).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated, Any, Literal

from pydantic import Field

from drpo_cli.settings import AdvantageSettings
from drpo_cli.types import TurnView

TOKEN_LEVEL = True
MIN_GROUP = 1
EXAMPLES: list[tuple[Any, ...]] = [
    ({"gae_lambda": 1.0}, [[1.0]], [[[0.25, 0.5]]], [[[0.75, 0.5]]]),
    ({"gae_lambda": 0.0}, [[1.0]], [[[0.25, 0.5]]], [[[0.25, 0.5]]]),
    ({"gae_lambda": 0.5, "discount": 0.5}, [[1.0]], [[[0.0, 0.5]]], [[[0.375, 0.5]]]),
    (
        {"discount": 0.5},
        [[3.0]],
        [[[0.5, 1.0, 0.25]]],
        [[[TurnView(1.0, 2), TurnView(2.0, 1)]]],
        [[[0.5, 1.0, 1.75]]],
    ),
    (
        {"discount": 0.5, "level": "turn"},
        [[3.0]],
        [[[0.5, 1.0, 0.25]]],
        [[[TurnView(1.0, 2), TurnView(2.0, 1)]]],
        [[[1.5, 1.75]]],
    ),
]


class Config(AdvantageSettings):
    """Options of generalised advantage estimation."""

    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 1.0
    """λ: how far back an error reaches; at 1, the values of later states have no influence."""
    discount: Annotated[float, Field(gt=0, le=1)] = 1.0
    """γ: the discount of a later reward, per token, or per turn with `level = "turn"`."""
    level: Literal["token", "turn"] = "token"
    """What has a value and an advantage of its own: each `token`; or each `turn`, for episodes in
    an environment."""


def advantages(
    config: Config,
    scores_PG: Sequence[Sequence[float]],
    values_PG: Sequence[Sequence[Sequence[float]]],
    turns_PG: Sequence[Sequence[Sequence[TurnView]]] | None = None,
) -> list[list[list[float]]]:
    """Computes an advantage per token, in the shape of `values_PG`: V of the state before each.

    With `level = "turn"`, one per turn, in the shape of `turns_PG`. Without turns, each response is
    one, and its score the reward.
    """
    if turns_PG is None:
        turns_PG = [
            [
                [TurnView(score, len(values))] if values else []
                for score, values in zip(*pair, strict=True)
            ]
            for pair in zip(scores_PG, values_PG, strict=True)
        ]
    return [
        [_estimate(config, *pair) for pair in zip(values_G, turns_G, strict=True)]
        for values_G, turns_G in zip(values_PG, turns_PG, strict=True)
    ]


def _estimate(config: Config, values: Sequence[float], turns: Sequence[TurnView]) -> list[float]:
    if config.level == "turn":
        starts = accumulate((turn.tokens for turn in turns), initial=0)
        values = [values[start] for start, _ in zip(starts, turns, strict=False)]
        rewards = [turn.reward for turn in turns]
    else:
        rewards = [r for turn in turns for r in (*[0.0] * (turn.tokens - 1), turn.reward)]
    adv, following, backwards = 0.0, 0.0, []
    for value, reward in zip(reversed(values), reversed(rewards), strict=True):
        delta = reward + config.discount * following - value
        adv = delta + config.discount * config.gae_lambda * adv
        backwards.append(adv)
        following = value
    return backwards[::-1]
