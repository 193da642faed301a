"""PPO's clipped surrogate, as GRPO uses it: no gradient once the ratio left its range.

Loss of one token, with r = exp(log π − log μ) (arXiv 1707.06347, Eq. 7; two-sided range as in
DAPO, arXiv 2503.14476):

    max(−A r, −A clip(r, 1 − ε_low, 1 + ε_high))

Its gradient is ∂loss/∂log π = −A r w with w = 0 for a diverging token outside the range (A > 0 and
r > 1 + ε_high, or A < 0 and r < 1 − ε_low), else 1. Nothing pulls such a token back, and A < 0
with r > 1 is not bounded. Where |log π − log μ| > 20 the ratio is held at e^±20 and w is 0.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from drpo_cli.objectives._common import log_ratio, token_loss
from drpo_cli.settings import ObjectiveSettings
from drpo_cli.types import TokenLoss, Tokens


class Config(ObjectiveSettings):
    """Options of the PPO clip."""

    epsilon_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """ε_low: a token with A < 0 has no gradient once r < 1 − ε_low."""
    epsilon_high: Annotated[float, Field(gt=0)] = 0.2
    """ε_high: a token with A > 0 has no gradient once r > 1 + ε_high; clip-higher sets 0.28."""


def loss(config: Config, tokens: Tokens) -> TokenLoss:
    """Loss and gradient weight of each token, shape [T]."""
    adv_T = tokens.adv_T
    lowest, highest = 1 - config.epsilon_low, 1 + config.epsilon_high
    ratio_T = log_ratio(tokens).exp()
    clipped_T = ((adv_T > 0) & (ratio_T > highest)) | ((adv_T < 0) & (ratio_T < lowest))
    # Same value as max(…), but a rounding tie of its two arms would halve the gradient.
    kept_T = ratio_T.clamp(lowest, highest).where(clipped_T, ratio_T)
    return token_loss(tokens, -adv_T * kept_T, (~clipped_T).to(ratio_T.dtype))
