"""Divergence PPO: tokens that diverged beyond δ in probability are masked.

Loss of one token, with r = exp(log π − log μ) (arXiv 2602.04879):

    −A r M

Binary-TV: M = 0 if A > 0 and π − μ > δ_high, or A < 0 and π − μ < −δ_low; else M = 1.
Binary-KL: the same with KL(Bern(μ) ‖ Bern(π)) > δ on the side where π − μ has the sign of A.

Its gradient is ∂loss/∂log π = −A r w with w = M: a cliff at δ, and nothing pulls a token back.
With `ratio_cap` = c the coefficient r is truncated, w = M min(1, c/r); verl's loss of this method
has 20, and its script lifts it. Where |log π − log μ| > 20 the ratio is held at e^±20 and w is 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from drpo_cli.objectives._common import log_ratio, token_loss
from drpo_cli.settings import ObjectiveSettings
from drpo_cli.types import TokenLoss, Tokens

if TYPE_CHECKING:
    from torch import Tensor


class Config(ObjectiveSettings):
    """Options of DPPO."""

    divergence: Literal["tv", "kl"] = "tv"
    """Distance between μ and π of the sampled token: total variation, or KL divergence in nats."""
    delta_low: Annotated[float, Field(gt=0)] = 0.15
    """Threshold δ_low for tokens with A < 0, whose probability falls; 0.05 by default with kl."""
    delta_high: Annotated[float, Field(gt=0)] = 0.15
    """Threshold δ_high for tokens with A > 0, whose probability rises; 0.05 by default with kl."""
    ratio_cap: Annotated[float, Field(ge=1)] | None = None
    """Largest ratio that multiplies a gradient; off when not set, 20 in verl's loss."""

    @model_validator(mode="before")
    @classmethod
    def _set_kl_defaults(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("divergence") == "kl":
            return {"delta_low": 0.05, "delta_high": 0.05, **given}
        return given


def regime(config: Config) -> str:
    """Says in words what the mask does at these thresholds."""
    name = {"tv": "|π−μ|", "kl": "KL(Bern(μ) ‖ Bern(π))"}[config.divergence]
    text = (
        f"a cliff: w is 0 for a diverging token beyond {name} = {config.delta_high:g} (A > 0) or "
        f"{config.delta_low:g} (A < 0), else 1; nothing is pulled back"
    )
    if config.divergence == "tv" and min(config.delta_low, config.delta_high) >= 1:
        return "no token is ever masked, since |π−μ| ≤ 1 and both δ are 1 or more"
    return text


def binary_kl(logp_T: Tensor, old_logp_T: Tensor) -> Tensor:
    """Computes KL(Bern(μ) ‖ Bern(π)) in nats, shape [T]; inf where π = 1 > μ, never NaN."""
    logp_T, old_logp_T = logp_T.clamp(max=0), old_logp_T.clamp(max=0)
    rest_pi_T, rest_mu_T = -logp_T.expm1(), -old_logp_T.expm1()
    token_T = old_logp_T.exp() * (old_logp_T - logp_T)
    rest_T = rest_mu_T.xlogy(rest_mu_T) - rest_mu_T.xlogy(rest_pi_T)
    return (token_T + rest_T).clamp(min=0)


def loss(config: Config, tokens: Tokens) -> TokenLoss:
    """Computes loss and gradient weight of each token, shape [T]."""
    ratio_T = log_ratio(tokens).exp()
    cap_T = ratio_T.new_ones(ratio_T.shape)
    if config.ratio_cap is not None:
        cap_T = (config.ratio_cap / ratio_T.detach()).clamp(max=1)
    weight_T = cap_T.where(~_find_masked(config, tokens), 0.0)
    return token_loss(tokens, -tokens.adv_T * ratio_T * weight_T, weight_T)


def _find_masked(config: Config, tokens: Tokens) -> Tensor:
    logp_T, old_logp_T = tokens.logp_T.detach(), tokens.old_logp_T
    shift_T = logp_T.exp() - old_logp_T.exp()
    distance_T = shift_T.abs() if config.divergence == "tv" else binary_kl(logp_T, old_logp_T)
    too_high_T = (shift_T > 0) & (distance_T > config.delta_high)
    too_low_T = (shift_T < 0) & (distance_T > config.delta_low)
    return ((tokens.adv_T > 0) & too_high_T) | ((tokens.adv_T < 0) & too_low_T)
