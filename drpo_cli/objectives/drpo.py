"""Divergence Regularized Policy Optimization: a smooth, corrective trust region on |π − μ|.

Loss of one token, with r = exp(log π − log μ) (arXiv 2606.09821, Eq. 8):

    −A r + |A| μ (r − 1)² / (2δ)

Its gradient is ∂loss/∂log π = −A r w (arXiv 2606.09821, Table 1) with

    w = 1 − sign(A (r − 1)) |π − μ| / δ,    1 − 1/δ ≤ w ≤ 1 + 1/δ

w is 0 where a diverging token (A (r − 1) > 0) reaches |π − μ| = δ, and negative beyond: the token
is pulled back. It is SPO (arXiv 2401.16025) with the token's own ε = δ/μ. Since |π − μ| ≤ 1, the
corrective region w < 0 exists only for δ < 1. Where |log π − log μ| > 20 the ratio is held at
e^±20 and w is 0.

With two thresholds, δ is δ_low for A < 0 and δ_high for A > 0, on both sides of r = 1: each token
has one parabola, so w still has no jump. The two-sided form is ours, after DPPO's thresholds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from drpo_cli.objectives._common import log_ratio, token_loss
from drpo_cli.settings import ObjectiveSettings
from drpo_cli.types import TokenLoss, Tokens

if TYPE_CHECKING:
    from torch import Tensor


class Config(ObjectiveSettings):
    """Options of DRPO."""

    delta: Annotated[float, Field(gt=0)] = 0.2
    """Trust region δ on the absolute probability shift |π − μ|; at 1 or more it never corrects."""
    delta_low: Annotated[float, Field(gt=0)] | None = None
    """δ of tokens with A < 0, whose probability should fall; `delta` when not set."""
    delta_high: Annotated[float, Field(gt=0)] | None = None
    """δ of tokens with A > 0, whose probability should rise; `delta` when not set."""


def regime(config: Config) -> str:
    """Says in words what the trust region does at this δ (arXiv 2606.09821, Table 1)."""
    low, high = _deltas(config)
    if low == high:
        return _describe(low)
    return f"A > 0: {_describe(high)}\nA < 0: {_describe(low)}"


def _describe(delta: float) -> str:
    weights = f"w in [1−1/δ, 1+1/δ] = [{1 - 1 / delta:.3g}, {1 + 1 / delta:.3g}]"
    if delta >= 1:
        return f"δ = {delta:g} never corrects, since |π−μ| ≤ 1: {weights}"
    return (
        f"δ = {delta:g} corrects: w falls to 0 where a diverging token reaches |π−μ| = {delta:g}, "
        f"and is negative beyond; {weights}"
    )


def _deltas(config: Config) -> tuple[float, float]:
    """δ of tokens with A < 0, and δ of tokens with A > 0."""
    low = config.delta if config.delta_low is None else config.delta_low
    high = config.delta if config.delta_high is None else config.delta_high
    return low, high


def loss(config: Config, tokens: Tokens) -> TokenLoss:
    """Computes loss and gradient weight of each token, shape [T]."""
    ratio_T = log_ratio(tokens).exp()
    mu_T, delta_T = tokens.old_logp_T.exp(), _delta(config, tokens.adv_T)
    penalty_T = tokens.adv_T.abs() * mu_T * (ratio_T - 1) ** 2 / (2 * delta_T)
    weight_T = 1 - tokens.adv_T.sign() * mu_T * (ratio_T - 1) / delta_T
    return token_loss(tokens, -tokens.adv_T * ratio_T + penalty_T, weight_T)


def _delta(config: Config, adv_T: Tensor) -> Tensor:
    """δ of each token by the sign of its advantage; A = 0 has no penalty, so its δ is arbitrary."""
    low, high = _deltas(config)
    return adv_T.new_full(adv_T.shape, high).masked_fill(adv_T < 0, low)
