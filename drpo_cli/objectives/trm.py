"""Trust Region Masking: a response with a token, or a mean, that moved too far is left out whole.

Loss of one token, with r = exp(log π − log μ) and D an estimate of KL(μ ‖ π) at the token
(arXiv 2512.23075):

    −A r M,    M = 1 if max_t D_t ≤ δ_max and mean_t D_t ≤ δ_mean over its response, else 0

Its gradient is ∂loss/∂log π = −A r w with w = M. The mask does not ask for a direction: a response
is left out for tokens that diverged as for tokens that converged. It still counts in means over
responses and tokens, so it adds 0 to them.

The paper's D is the KL divergence over the whole vocabulary, which an engine's log-probability of
the sampled token does not give. Two estimates take its place:

    sampled:  ½ (log r)² for the maximum, r − 1 − log r for the mean
    binary:   KL(Bern(μ) ‖ Bern(π)) for both, a lower bound of the paper's D

The first are those that its authors added to verl (`seq_max_k2` and `seq_mean_k3` there); the
second is that of DPPO (arXiv 2602.04879) and its use here is ours. Not verified: with which of its
estimates the paper got its results, and so for which of them its thresholds are meant.

Where |log π − log μ| > 20 the ratio is held at e^±20 and w is 0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from drpo_cli.objectives._common import log_ratio, response_mean, responses, token_loss
from drpo_cli.objectives.dppo import binary_kl
from drpo_cli.settings import ObjectiveSettings
from drpo_cli.types import TokenLoss, Tokens

if TYPE_CHECKING:
    from torch import Tensor

SEQUENCE_LEVEL = True

BOTH = {"delta_max": 0.1, "delta_mean": 0.002}
"""What the paper sets where it asks for both."""


class Config(ObjectiveSettings):
    """Options of TRM."""

    divergence: Literal["sampled", "binary"] = "sampled"
    """Estimate of KL(μ ‖ π) at a token: from its ratio, or of the token against all others."""
    delta_max: Annotated[float, Field(gt=0)] | None = None
    """δ_max in nats for the largest divergence of a response; 0.1 when neither is set, and no bound
    when only `delta_mean` is. Alone, the paper has 0.05."""
    delta_mean: Annotated[float, Field(gt=0)] | None = None
    """δ_mean in nats for the mean divergence of a response; 0.002 when neither is set, and no bound
    when only `delta_max` is. Alone, the paper has 0.001."""

    @model_validator(mode="before")
    @classmethod
    def _set_both(cls, given: Any) -> Any:
        if isinstance(given, dict) and not given.keys() & BOTH.keys():
            return BOTH | given
        return given


def regime(config: Config) -> str:
    """Says in words which responses the mask leaves out."""
    most, mean = {
        "sampled": ("½ (log r)²", "r − 1 − log r"),
        "binary": ("KL(Bern(μ) ‖ Bern(π))",) * 2,
    }[config.divergence]
    bounds = []
    if config.delta_max is not None:
        bounds.append(f"a token has {most} > {config.delta_max:g}")
    if config.delta_mean is not None:
        bounds.append(f"the mean of {mean} is above {config.delta_mean:g}")
    return (
        f"a cliff for whole responses: w is 0 for all tokens of a response where "
        f"{' or '.join(bounds)}, in whichever direction they moved; nothing is pulled back"
    )


def loss(config: Config, tokens: Tokens) -> TokenLoss:
    """Computes loss and gradient weight of each token, shape [T]."""
    ratio_T = log_ratio(tokens).exp()
    weight_T = (~_find_masked(config, tokens)).to(ratio_T.dtype)
    return token_loss(tokens, -tokens.adv_T * ratio_T * weight_T, weight_T)


def _find_masked(config: Config, tokens: Tokens) -> Tensor:
    response_T = responses(tokens)
    log_ratio_T = log_ratio(tokens).detach()
    most_T, mean_T = log_ratio_T.square() / 2, log_ratio_T.expm1() - log_ratio_T
    if config.divergence == "binary":
        most_T = mean_T = binary_kl(tokens.logp_T.detach(), tokens.old_logp_T)
    largest_T = most_T.new_zeros(most_T.shape).scatter_reduce(0, response_T, most_T, "amax")
    too_far_T = largest_T[response_T] > _or_inf(config.delta_max)
    return too_far_T | (response_mean(mean_T, response_T) > _or_inf(config.delta_mean))


def _or_inf(bound: float | None) -> float:
    return math.inf if bound is None else bound
