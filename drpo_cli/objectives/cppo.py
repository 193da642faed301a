"""Cumulative Prefix-divergence Policy Optimization: a mask that is stricter for early tokens.

Loss of one token, with r = exp(log π − log μ) (arXiv 2606.10968, Eq. 8 to 11):

    −A r M,    M = 1 if A (r − 1) ≤ 0, or v_t D_t ≤ c_t, else 0
    D_t = |π − μ|
    v_t = 1 − (1 − v_min) (t − 1) / (T − 1)
    c_t = min(δ, δ + δ_b Σ_{j<t} v_j − Σ_{j<t} v_j D_j)

for token t = 1 … T of its response. Its gradient is ∂loss/∂log π = −A r w with w = M.

A diverging token (A (r − 1) > 0) is masked beyond |π − μ| = δ at the start of a response and beyond
δ/v_min at its end, and sooner where the tokens before it moved by more than δ_b on average, whether
these were masked or not. A response of one token has the mask of DPPO (arXiv 2602.04879). With
`adaptive_budget`, δ_b is the 90th percentile of the response's own D_t, at least `budget` and at
most twice that (Eq. 22).

Compared: the equations above with the paper's text, its Algorithm 1 and its authors' released code
(Tencent-Hunyuan/UniRL, folder CPPO), which has this D. The results of the paper's main table are
those of a total variation over the 20 likeliest tokens, which an engine's log-probability of the
sampled token does not give; the paper reports similar ones for this D. The soft gate of its
Appendix C is not here.

Where |log π − log μ| > 20 the ratio is held at e^±20 and w is 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from drpo_cli.objectives._common import log_ratio, responses, token_loss
from drpo_cli.settings import ObjectiveSettings
from drpo_cli.types import TokenLoss, Tokens

if TYPE_CHECKING:
    from torch import Tensor

SEQUENCE_LEVEL = True

PERCENTILE = 0.9
"""The share of a response's tokens whose divergence is at most its adaptive budget."""


class Config(ObjectiveSettings):
    """Options of CPPO."""

    delta: Annotated[float, Field(gt=0)] = 0.15
    """Threshold δ on the weighted probability shift v |π − μ| of a token."""
    weight_floor: Annotated[float, Field(gt=0, le=1)] = 0.8
    """v_min: the weight v of a response's last token; that of its first is 1."""
    budget: Annotated[float, Field(gt=0)] = 0.02
    """δ_b: how far the tokens before one may have moved on average before its threshold falls."""
    adaptive_budget: bool = True
    """Whether δ_b is the response's own 90th percentile of |π − μ|, from `budget` to twice that."""


def regime(config: Config) -> str:
    """Says in words what the mask does at these thresholds."""
    budget = f"{config.budget:g}"
    if config.adaptive_budget:
        budget += f" to {2 * config.budget:g}"
    return (
        f"a cliff: w is 0 for a diverging token beyond |π−μ| = {config.delta:g} at the start of a "
        f"response and {config.delta / config.weight_floor:g} at its end, and sooner where the "
        f"tokens before it moved by more than {budget} on average; nothing is pulled back"
    )


def loss(config: Config, tokens: Tokens) -> TokenLoss:
    """Computes loss and gradient weight of each token, shape [T]."""
    ratio_T = log_ratio(tokens).exp()
    weight_T = (~_find_masked(config, tokens)).to(ratio_T.dtype)
    return token_loss(tokens, -tokens.adv_T * ratio_T * weight_T, weight_T)


def _find_masked(config: Config, tokens: Tokens) -> Tensor:
    logp_T, old_logp_T = tokens.logp_T.detach(), tokens.old_logp_T
    shift_T, response_T = (logp_T.exp() - old_logp_T.exp()).abs(), responses(tokens)
    ones_T = response_T.new_ones(response_T.shape)
    count_T = ones_T.new_zeros(ones_T.shape).index_add(0, response_T, ones_T)
    first_T, length_T = (count_T.cumsum(0) - count_T)[response_T], count_T[response_T]
    place_T = ones_T.cumsum(0) - 1 - first_T  # t − 1

    def before(values_T: Tensor) -> Tensor:
        """The sum over the tokens before each one of its response."""
        total_T = values_T.cumsum(0) - values_T
        return total_T - total_T[first_T]

    # In float64, since a sum over a response is the difference of two over all tokens.
    part_T = place_T.double() / (length_T - 1).clamp(min=1)
    v_T = 1 - (1 - config.weight_floor) * part_T
    weighted_T = v_T * shift_T
    budget_T = shift_T.new_full(shift_T.shape, config.budget)
    if config.adaptive_budget:
        percentile_T = _percentile(shift_T, response_T, first_T, length_T)
        budget_T = percentile_T.clamp(config.budget, 2 * config.budget)
    slack_T = budget_T * before(v_T) - before(weighted_T)
    diverging_T = tokens.adv_T.sign() * (logp_T - old_logp_T) > 0
    return diverging_T & (weighted_T > config.delta + slack_T.clamp(max=0))


def _percentile(shift_T: Tensor, response_T: Tensor, first_T: Tensor, length_T: Tensor) -> Tensor:
    """For each token, the percentile of its response, between the two nearest values, [T]."""
    by_shift_T = shift_T.argsort()
    sorted_T = shift_T[by_shift_T[response_T[by_shift_T].argsort(stable=True)]]
    rank_T = PERCENTILE * (length_T - 1).double()
    below_T = rank_T.long()
    low_T = sorted_T[first_T + below_T]
    high_T = sorted_T[first_T + (below_T + 1).minimum(length_T - 1)]
    return low_T + (high_T - low_T) * (rank_T - below_T)
