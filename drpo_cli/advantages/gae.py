"""Generalised advantage estimation: an advantage per token, from a learned critic.

With the reward R of a response given at its last token T, V_{T+1} = 0 and discount γ:

    δ_t = r_t + γ V_{t+1} − V_t,    A_t = Σ_l (γ λ)^l δ_{t+l}

arXiv 1506.02438, Eq. 16. λ = 1 gives return minus value, λ = 0 the one-step error. PPO
(arXiv 1707.06347) trains on it. It needs a `[critic]`. A truncated response ends like any other:
the value beyond its last token counts as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from drpo_cli.settings import AdvantageSettings

TOKEN_LEVEL = True
MIN_GROUP = 1
EXAMPLES: list[
    tuple[dict[str, float], list[list[float]], list[list[list[float]]], list[list[list[float]]]]
] = [
    ({"gae_lambda": 1.0}, [[1.0]], [[[0.25, 0.5]]], [[[0.75, 0.5]]]),
    ({"gae_lambda": 0.0}, [[1.0]], [[[0.25, 0.5]]], [[[0.25, 0.5]]]),
    ({"gae_lambda": 0.5, "discount": 0.5}, [[1.0]], [[[0.0, 0.5]]], [[[0.375, 0.5]]]),
]


class Config(AdvantageSettings):
    """Options of generalised advantage estimation."""

    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 1.0
    """λ: how far back an error reaches; at 1, the values of later states have no influence."""
    discount: Annotated[float, Field(gt=0, le=1)] = 1.0
    """γ: the discount of a later reward, per token."""


def advantages(
    config: Config,
    scores_PG: Sequence[Sequence[float]],
    values_PG: Sequence[Sequence[Sequence[float]]],
) -> list[list[list[float]]]:
    """Computes an advantage per token, in the shape of `values_PG`: V of the state before each."""
    return [
        [_estimate(config, *pair) for pair in zip(scores_G, values_G, strict=True)]
        for scores_G, values_G in zip(scores_PG, values_PG, strict=True)
    ]


def _estimate(config: Config, score: float, values: Sequence[float]) -> list[float]:
    adv, following, reward, backwards = 0.0, 0.0, score, []
    for value in reversed(values):
        delta = reward + config.discount * following - value
        adv = delta + config.discount * config.gae_lambda * adv
        backwards.append(adv)
        following, reward = value, 0.0
    return backwards[::-1]
