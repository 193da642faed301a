"""Shared by objectives: the clamped importance ratio, the form of the result, and responses."""

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


def responses(tokens: Tokens) -> Tensor:
    """The response of each token, shape [T]: 0 for all where they are not numbered."""
    if tokens.response_T is not None:
        return tokens.response_T
    return tokens.old_logp_T.new_zeros(tokens.old_logp_T.shape).long()


def response_mean(values_T: Tensor, response_T: Tensor) -> Tensor:
    """For each token, the mean over its response, shape [T]."""
    # There are at most T responses; a table of T entries needs no transfer from the device.
    zeros_T, ones_T = values_T.new_zeros(values_T.shape), values_T.new_ones(values_T.shape)
    total_T = zeros_T.index_add(0, response_T, values_T)
    count_T = zeros_T.index_add(0, response_T, ones_T)
    return total_T[response_T] / count_T[response_T]
