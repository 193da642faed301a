"""PPO's clipped surrogate, as GRPO uses it: no gradient once the ratio has left its range.

Loss of one token, with r = exp(log π − log μ) (arXiv 1707.06347, Eq. 7; two-sided range as in
DAPO, arXiv 2503.14476):

    max(−A r, −A clip(r, 1 − ε_low, 1 + ε_high))

Its gradient is ∂loss/∂log π = −A r w with w = 0 for a diverging token outside the range (A > 0 and
r > 1 + ε_high, or A < 0 and r < 1 − ε_low), else 1. Nothing pulls such a token back. For A < 0 and
r > 1 the loss has no bound, unless the dual clip c > 1 is set (arXiv 1912.09729, Eq. 5): then it is
at most −A c for A < 0, so w is 0 there too once r > c. Where |log π − log μ| > 20 the ratio is held
at e^±20 and w is 0.
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
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """c: a token with A < 0 has no gradient once r > c; off when not set, 3 in its paper."""


def regime(config: Config) -> str:
    """Says in words what the clip does to a token."""
    text = (
        f"a cliff on the ratio: w is 0 for a diverging token outside r in "
        f"[{1 - config.epsilon_low:g}, {1 + config.epsilon_high:g}], else 1; nothing is pulled back"
    )
    return (
        text if config.dual_clip is None else f"{text}; A < 0: also from r = {config.dual_clip:g}"
    )


def loss(config: Config, tokens: Tokens) -> TokenLoss:
    """Computes loss and gradient weight of each token, shape [T]."""
    adv_T = tokens.adv_T
    lowest, highest = 1 - config.epsilon_low, 1 + config.epsilon_high
    ratio_T = log_ratio(tokens).exp()
    too_high_T, too_low_T = (adv_T > 0) & (ratio_T > highest), (adv_T < 0) & (ratio_T < lowest)
    # The same value as max(…), where equal arguments would halve the gradient.
    kept_T = ratio_T.masked_fill(too_high_T, highest).masked_fill(too_low_T, lowest)
    clipped_T = too_high_T | too_low_T
    if config.dual_clip is not None:
        unbounded_T = (adv_T < 0) & (ratio_T > config.dual_clip)
        kept_T = kept_T.masked_fill(unbounded_T, config.dual_clip)
        clipped_T |= unbounded_T
    return token_loss(tokens, -adv_T * kept_T, (~clipped_T).to(ratio_T.dtype))
