"""Soft Adaptive Policy Optimization: a sigmoid gate on the ratio in place of a clip.

Loss of one token, with r = exp(log π − log μ) and σ the logistic function (arXiv 2511.20347,
token-level form):

    −A (4/τ) σ(τ (r − 1)),    τ = τ_pos for A > 0, else τ_neg

Its gradient is ∂loss/∂log π = −A r w with

    w = 4 p (1 − p),    p = σ(τ (r − 1)),    0 < w ≤ 1

w is 1 at r = 1 and fades on both sides of it, for diverging and converging tokens: there is no
cliff, and nothing pulls a token back. Since r ≥ 0, w is at least 4 σ(τ) (1 − σ(τ)) below r = 1,
which is 0.79 at τ = 1. Where |log π − log μ| > 20 the ratio is held at e^±20 and w is 0.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from drpo_cli.objectives._common import log_ratio, token_loss
from drpo_cli.settings import ObjectiveSettings
from drpo_cli.types import TokenLoss, Tokens


class Config(ObjectiveSettings):
    """Options of SAPO."""

    tau_pos: Annotated[float, Field(gt=0)] = 1.0
    """τ of tokens with A > 0: the larger it is, the sooner w fades as r leaves 1."""
    tau_neg: Annotated[float, Field(gt=0)] = 1.05
    """τ of tokens with A < 0; the paper sets it above `tau_pos`."""


def regime(config: Config) -> str:
    """Says in words what the gate does to a token."""
    return (
        f"a soft gate on the ratio: w fades from 1 as r leaves 1, with τ = {config.tau_pos:g} "
        f"(A > 0) or {config.tau_neg:g} (A < 0), and stays above 0; nothing is pulled back"
    )


def loss(config: Config, tokens: Tokens) -> TokenLoss:
    """Computes loss and gradient weight of each token, shape [T]."""
    adv_T = tokens.adv_T
    ratio_T = log_ratio(tokens).exp()
    tau_T = adv_T.new_full(adv_T.shape, config.tau_neg).masked_fill(adv_T > 0, config.tau_pos)
    gate_T = (tau_T * (ratio_T - 1)).sigmoid()
    return token_loss(tokens, -adv_T * 4 * gate_T / tau_T, 4 * gate_T * (1 - gate_T))
