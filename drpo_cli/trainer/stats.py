"""Statistics of a step's tokens: how far π moved from μ, and what the objective did about it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drpo_cli.dist import World
from drpo_cli.types import LOG_RATIO_LIMIT, Tokens

QUANTILES = {"p01": 0.01, "p50": 0.5, "p90": 0.9, "p99": 0.99}
LOWEST_MU = (0.1, 0.01, 0.001, 0.0)
"""The lower ends of the ranges of `by_mu`; each ends where the one before begins."""


class TokenStats:
    """Collects per-token values over micro-batches and updates; summarised once per step."""

    def __init__(self, world: World):
        self.world = world
        self.columns: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def add(self, tokens: Tokens, entropy_T: Tensor, metrics: dict[str, Tensor]) -> None:
        """Adds the response tokens of one micro-batch."""
        log_ratio_T = tokens.logp_T - tokens.old_logp_T
        values = {
            "mu": tokens.old_logp_T.exp(),
            "ratio": log_ratio_T.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp(),
            "shift": (tokens.logp_T.exp() - tokens.old_logp_T.exp()).abs(),
            "entropy": entropy_T,
            "weight": metrics["weight"],
            "advantage": tokens.adv_T,
        }
        columns = torch.stack([value.detach().float() for value in values.values()])
        for name, column in zip(values, columns.cpu(), strict=True):  # the host waits once
            self.columns.setdefault(name, []).append(column)

    def summary(self) -> dict[str, Any]:
        """Metrics over all tokens of all ranks. Collective.

        ratio_*, shift_*, weight_*  quantiles of r = π/μ, of |π − μ|, of the gradient weight w
        diverging_share        A (r − 1) > 0, w ≥ 0: tokens that moved as their advantage pushes
        converging_share       A (r − 1) < 0, w ≥ 0: tokens that moved against it
        corrective_share       w < 0: tokens pulled back from beyond the trust region
        masked_share           w = 0: tokens without a gradient
        *_mass                 the share of Σ |A r w|, the gradient on log π, from such tokens
        effective_sample_size  (Σ r)² / (n Σ r²), 1 where π = μ (Kong 1992)
        by_mu                  what happened to frequent and to rare tokens: `_by_mu`
        """
        found = {name: self.world.gather(torch.cat(parts)) for name, parts in self.columns.items()}
        if not found or not len(found["weight"]):
            return {"trained_tokens": 0.0}
        ratio, weight, advantage = found["ratio"], found["weight"], found["advantage"]
        spread = {
            f"{name}_{key}": value
            for name in ("ratio", "shift", "weight")
            for key, value in _spread(found[name]).items()
        }
        return {
            **spread,
            "entropy": float(found["entropy"].mean()),
            "effective_sample_size": float(ratio.sum() ** 2 / (len(ratio) * (ratio**2).sum())),
            "trained_tokens": float(len(weight)),
            **_shares(ratio, weight, advantage),
            **_masses(ratio, weight, advantage),
            "by_mu": _by_mu(found),
        }


def _by_mu(found: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """What happened to the tokens of each range of μ that has any, by the lower end of the range.

    token_share    of all tokens
    ratio_moved    mean |r − 1|
    shift_mean     mean |π − μ|
    and the shares of `summary`, of the tokens of the range

    A bound on the ratio acts on rare tokens first, a bound on |π − μ| on frequent ones.
    """
    highest, ranges = float("inf"), {}
    for lowest in LOWEST_MU:
        inside = (found["mu"] >= lowest) & (found["mu"] < highest)
        highest = lowest
        if not inside.any():
            continue
        ratio, weight, advantage = (found[n][inside] for n in ("ratio", "weight", "advantage"))
        ranges[f"{lowest:g}"] = {
            "token_share": float(inside.float().mean()),
            "ratio_moved": float((ratio - 1).abs().mean()),
            "shift_mean": float(found["shift"][inside].mean()),
            **_shares(ratio, weight, advantage),
        }
    return ranges


def _kinds(ratio: Tensor, weight: Tensor, advantage: Tensor) -> dict[str, Tensor]:
    direction = advantage * (ratio - 1)
    return {
        "diverging": (direction > 0) & (weight >= 0),
        "converging": (direction < 0) & (weight >= 0),
        "corrective": weight < 0,
    }


def _shares(ratio: Tensor, weight: Tensor, advantage: Tensor) -> dict[str, float]:
    kinds = {**_kinds(ratio, weight, advantage), "masked": weight == 0}
    return {f"{name}_share": float(kind.float().mean()) for name, kind in kinds.items()}


def _masses(ratio: Tensor, weight: Tensor, advantage: Tensor) -> dict[str, float]:
    mass = (advantage * ratio * weight).abs()
    total = float(mass.sum()) or 1.0
    kinds = _kinds(ratio, weight, advantage)
    return {f"{name}_mass": float(mass[kind].sum()) / total for name, kind in kinds.items()}


def _spread(values: Tensor) -> dict[str, float]:
    ranked = values.sort().values  # torch.quantile refuses more than 2^24 values
    quantiles = {
        name: float(ranked[max(0, round(share * len(values)) - 1)])
        for name, share in QUANTILES.items()
    }
    return {
        "mean": float(values.mean()),
        "min": float(ranked[0]),
        **quantiles,
        "max": float(ranked[-1]),
    }
