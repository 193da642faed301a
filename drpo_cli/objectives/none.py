"""Importance-weighted policy gradient: no trust region at all.

Loss of one token, with r = exp(log π − log μ) (off-policy REINFORCE; the surrogate of
arXiv 1502.05477 without its constraint):

    −A r

Its gradient is ∂loss/∂log π = −A r w with w = 1. Where |log π − log μ| > 20 the ratio is held at
e^±20 and w is 0.
"""

from __future__ import annotations

from drpo_cli.objectives._common import log_ratio, token_loss
from drpo_cli.settings import ObjectiveSettings
from drpo_cli.types import TokenLoss, Tokens


class Config(ObjectiveSettings):
    """It has no options."""


def regime(config: Config) -> str:
    """Says in words that it has no trust region."""
    return "none: every token has w = 1, however far π is from μ"


def loss(config: Config, tokens: Tokens) -> TokenLoss:
    """Computes loss and gradient weight of each token, shape [T]."""
    ratio_T = log_ratio(tokens).exp()
    return token_loss(tokens, -tokens.adv_T * ratio_T, ratio_T.new_ones(ratio_T.shape))
