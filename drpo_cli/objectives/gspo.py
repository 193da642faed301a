"""Group Sequence Policy Optimization: one clipped ratio for a whole response.

The ratio of response i is the geometric mean of its tokens' r = exp(log π − log μ). Loss of one
token, in the GSPO-token form with sg the stop-gradient (arXiv 2507.18071, Section 4.3):

    s_i = exp(mean_t log r_t),    s_it = sg[s_i] π_t / sg[π_t]

    max(−A s_it, −A clip(s_it, 1 − ε_low, 1 + ε_high))

Its gradient is ∂loss/∂log π = −A s_i M = −A r w with w = M s_i/r. M is 0 for a response that
diverged beyond the range (A > 0 and s_i > 1 + ε_high, or A < 0 and s_i < 1 − ε_low), else 1: all
tokens of a response are kept or dropped together. With one advantage per response and the mean over
its tokens (`reduction = "sequence_mean"`) this has the gradient of the sequence form, Eq. 5.

log r is clamped to ±20 before the mean, so that one broken log-prob moves the other tokens of its
response by no more than 20/|y|. Beyond the clamp a token has no gradient of its own and w is 0.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from drpo_cli.objectives._common import log_ratio, response_mean, responses, token_loss
from drpo_cli.settings import ObjectiveSettings
from drpo_cli.types import TokenLoss, Tokens

SEQUENCE_LEVEL = True


class Config(ObjectiveSettings):
    """Options of GSPO."""

    epsilon_low: Annotated[float, Field(gt=0, lt=1)] = 3e-4
    """ε_low: a response with A < 0 has no gradient once its ratio s < 1 − ε_low."""
    epsilon_high: Annotated[float, Field(gt=0)] = 4e-4
    """ε_high: a response with A > 0 has no gradient once its ratio s > 1 + ε_high."""


def regime(config: Config) -> str:
    """Says in words what the clip does to a response."""
    return (
        f"a cliff on the response's ratio: w is 0 for all tokens of a diverging response outside s "
        f"in [{1 - config.epsilon_low:g}, {1 + config.epsilon_high:g}]; nothing is pulled back"
    )


def loss(config: Config, tokens: Tokens) -> TokenLoss:
    """Computes loss and gradient weight of each token, shape [T]."""
    adv_T = tokens.adv_T
    lowest, highest = 1 - config.epsilon_low, 1 + config.epsilon_high
    log_ratio_T = log_ratio(tokens)
    own_T, mean_T = log_ratio_T.detach(), response_mean(log_ratio_T.detach(), responses(tokens))
    ratio_T = (mean_T + log_ratio_T - own_T).exp()
    too_high_T, too_low_T = (adv_T > 0) & (ratio_T > highest), (adv_T < 0) & (ratio_T < lowest)
    kept_T = ratio_T.masked_fill(too_high_T, highest).masked_fill(too_low_T, lowest)
    weight_T = (mean_T - own_T).exp().masked_fill(too_high_T | too_low_T, 0.0)
    return token_loss(tokens, -adv_T * kept_T, weight_T)
