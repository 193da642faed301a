"""Divergence Regularized Policy Optimization: a smooth, corrective trust region on |π − μ|.

Loss of one token, with r = exp(log π − log μ) (arXiv 2606.09821, Eq. 8):

    −A r + |A| μ (r − 1)² / (2δ)

Its gradient is ∂loss/∂log π = −A r w (arXiv 2606.09821, Table 1) with

    w = 1 − sign(A (r − 1)) |π − μ| / δ,    1 − 1/δ ≤ w ≤ 1 + 1/δ

w is 0 where a diverging token (A (r − 1) > 0) reaches |π − μ| = δ, and negative beyond: the token
is pulled back. It is SPO (arXiv 2401.16025) with the token's own ε = δ/μ. Since |π − μ| ≤ 1, the
corrective region w < 0 exists only for δ < 1. Where |log π − log μ| > 20 the ratio is held at
e^±20 and w is 0.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from drpo_cli.objectives._common import log_ratio, token_loss
from drpo_cli.settings import ObjectiveSettings
from drpo_cli.types import TokenLoss, Tokens


class Config(ObjectiveSettings):
    """Options of DRPO."""

    delta: Annotated[float, Field(gt=0)] = 0.2
    """Trust region δ on the absolute probability shift |π − μ|; from 1 on it never corrects."""


def loss(config: Config, tokens: Tokens) -> TokenLoss:
    """Loss and gradient weight of each token, shape [T]."""
    ratio_T = log_ratio(tokens).exp()
    mu_T = tokens.old_logp_T.exp()
    penalty_T = tokens.adv_T.abs() * mu_T * (ratio_T - 1) ** 2 / (2 * config.delta)
    weight_T = 1 - tokens.adv_T.sign() * mu_T * (ratio_T - 1) / config.delta
    return token_loss(tokens, -tokens.adv_T * ratio_T + penalty_T, weight_T)
