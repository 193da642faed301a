"""Clipped importance-sampling policy optimization: the ratio is capped, no token is dropped.

Loss of one token, with r = exp(log π − log μ) and sg the stop-gradient (MiniMax-M1,
arXiv 2506.13585, Eq. 4 and 5):

    −A sg[clip(r, 1 − ε_low, 1 + ε_high)] log π

Its gradient is ∂loss/∂log π = −A r w with

    w = clip(r, 1 − ε_low, 1 + ε_high) / r

so a token beyond the range keeps the gradient it had at the edge, in whichever direction it moved.
The paper sets no lower bound, and neither does this file unless `epsilon_low` is set; then w > 1
for a token whose ratio fell below it. Where |log π − log μ| > 20 the token has no gradient and w
is 0.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from drpo_cli.objectives._common import log_ratio, token_loss
from drpo_cli.settings import ObjectiveSettings
from drpo_cli.types import TokenLoss, Tokens


class Config(ObjectiveSettings):
    """Options of CISPO."""

    epsilon_low: Annotated[float, Field(gt=0, lt=1)] | None = None
    """ε_low: the ratio that multiplies a gradient is at least 1 − ε_low; no bound when not set."""
    epsilon_high: Annotated[float, Field(gt=0)] = 3.0
    """ε_high: the ratio that multiplies a gradient is at most 1 + ε_high."""


def regime(config: Config) -> str:
    """Says in words what the capped ratio does to a token."""
    least = "" if config.epsilon_low is None else f" and at least {1 - config.epsilon_low:g}"
    return (
        f"no token is dropped or pulled back: the ratio that multiplies a gradient is at most "
        f"{1 + config.epsilon_high:g}{least}"
    )


def loss(config: Config, tokens: Tokens) -> TokenLoss:
    """Computes loss and gradient weight of each token, shape [T]."""
    log_ratio_T = log_ratio(tokens)
    ratio_T = log_ratio_T.detach().exp()
    lowest = 0 if config.epsilon_low is None else 1 - config.epsilon_low
    clipped_T = ratio_T.clamp(lowest, 1 + config.epsilon_high)
    # log π, without a gradient beyond the clamp
    logp_T = tokens.old_logp_T + log_ratio_T
    return token_loss(tokens, -tokens.adv_T * clipped_T * logp_T, clipped_T / ratio_T)
