"""Shared by all objectives: the clamped importance ratio, and the form of the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drpo_cli.types import LOG_RATIO_LIMIT, TokenLoss, Tokens

if TYPE_CHECKING:
    from torch import Tensor


def log_ratio(tokens: Tokens) -> Tensor:
    """Computes log r = log π − log μ clamped to ±20, shape [T]; carries the gradient of log π.

    Up to and including ±20 its derivative is 1. Beyond, r is the constant e^±20, so the token has
    no gradient: a probability that moved by a factor of 5e8 is a broken log-prob, not a signal.
    """
    return (tokens.logp_T - tokens.old_logp_T).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def token_loss(tokens: Tokens, per_token_T: Tensor, weight_T: Tensor) -> TokenLoss:
    """Makes an objective's result; `weight_T` is its closed-form gradient weight within the clamp.

    Beyond the clamp the weight is set to 0, so that ∂loss/∂log π = −A r w holds for every token.
    """
    log_ratio_T = (tokens.logp_T - tokens.old_logp_T).detach()
    within_T = log_ratio_T.abs() <= LOG_RATIO_LIMIT
    return TokenLoss(per_token_T, {"weight": weight_T.detach().where(within_T, 0.0)})
