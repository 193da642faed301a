"""Simple Policy Optimization: a quadratic penalty on the ratio, a χ² trust region.

Loss of one token, with r = exp(log π − log μ) (arXiv 2401.16025):

    −A r + |A| (r − 1)² / (2ε)

Its gradient is ∂loss/∂log π = −A r w with

    w = 1 − sign(A (r − 1)) |r − 1| / ε

w is 0 where a diverging token (A (r − 1) > 0) reaches |r − 1| = ε, and negative beyond. Since r can
reach 1/μ, w is unbounded as μ → 0. Where |log π − log μ| > 20 the ratio is held at e^±20 and w
is 0.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from drpo_cli.objectives._common import log_ratio, token_loss
from drpo_cli.settings import ObjectiveSettings
from drpo_cli.types import TokenLoss, Tokens


class Config(ObjectiveSettings):
    """Options of SPO."""

    epsilon: Annotated[float, Field(gt=0)] = 0.2
    """Trust region ε on the ratio: |r − 1| at which a diverging token's weight is 0."""


def regime(config: Config) -> str:
    """Says in words what the penalty does to a token."""
    return (
        f"corrects on the ratio: w falls to 0 where a diverging token reaches |r−1| = "
        f"{config.epsilon:g}, and is negative beyond, without a bound as μ → 0"
    )


def loss(config: Config, tokens: Tokens) -> TokenLoss:
    """Computes loss and gradient weight of each token, shape [T]."""
    ratio_T = log_ratio(tokens).exp()
    penalty_T = tokens.adv_T.abs() * (ratio_T - 1) ** 2 / (2 * config.epsilon)
    weight_T = 1 - tokens.adv_T.sign() * (ratio_T - 1) / config.epsilon
    return token_loss(tokens, -tokens.adv_T * ratio_T + penalty_T, weight_T)
