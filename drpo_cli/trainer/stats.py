"""Statistics of a step's tokens: how far π moved from μ, and what the objective did about it."""

from __future__ import annotations

import torch
from torch import Tensor

from drpo_cli.dist import World
from drpo_cli.types import LOG_RATIO_LIMIT, Tokens

QUANTILES = {"p01": 0.01, "p50": 0.5, "p90": 0.9, "p99": 0.99}


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
            "ratio": log_ratio_T.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp(),
            "shift": (tokens.logp_T.exp() - tokens.old_logp_T.exp()).abs(),
            "entropy": entropy_T,
            "weight": metrics["weight"],
            "advantage": tokens.adv_T,
        }
        for name, value in values.items():
            self.columns.setdefault(name, []).append(value.detach().float().cpu())

    def summary(self) -> dict[str, float]:
        """Metrics over all tokens of all ranks. Collective.

        ratio_*, shift_*, weight_*  quantiles of r = π/μ, of |π − μ|, of the gradient weight w
        diverging_share        A (r − 1) > 0, w ≥ 0: tokens that moved as their advantage pushes
        converging_share       A (r − 1) < 0, w ≥ 0: tokens that moved against it
        corrective_share       w < 0: tokens pulled back from beyond the trust region
        masked_share           w = 0: tokens without a gradient
        *_mass                 the share of Σ |A r w|, the gradient on log π, from such tokens
        effective_sample_size  (Σ r)² / (n Σ r²), 1 where π = μ (Kong 1992)
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
            "masked_share": float((weight == 0).float().mean()),
            "effective_sample_size": float(ratio.sum() ** 2 / (len(ratio) * (ratio**2).sum())),
            "trained_tokens": float(len(weight)),
            **_shares(ratio, weight, advantage),
        }


def _shares(ratio: Tensor, weight: Tensor, advantage: Tensor) -> dict[str, float]:
    direction = advantage * (ratio - 1)
    kinds = {
        "diverging": (direction > 0) & (weight >= 0),
        "converging": (direction < 0) & (weight >= 0),
        "corrective": weight < 0,
    }
    mass = (advantage * ratio * weight).abs()
    total = float(mass.sum())
    shares = {f"{name}_share": float(kind.float().mean()) for name, kind in kinds.items()}
    masses = {f"{n}_mass": float(mass[kind].sum()) / (total or 1.0) for n, kind in kinds.items()}
    return {**shares, **masses}


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
