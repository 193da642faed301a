"""What the tokens of a training phase look like: the numbers that say whether μ and π agree."""

from __future__ import annotations

import torch
from torch import Tensor

from drpo_cli.dist import World
from drpo_cli.types import Tokens


class TokenStats:
    """Collects per-token values over micro-batches and updates, summarised once a step."""

    def __init__(self, world: World):
        self.world = world
        self.columns: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def add(self, tokens: Tokens, entropy_R: Tensor, metrics: dict[str, Tensor]) -> None:
        """Adds the response tokens of one micro-batch."""
        values = {
            "ratio": (tokens.logp_T - tokens.old_logp_T).clamp(-20, 20).exp(),
            "shift": (tokens.logp_T.exp() - tokens.old_logp_T.exp()).abs(),
            "entropy": entropy_R,
            "weight": metrics["weight"],
        }
        for name, value in values.items():
            self.columns.setdefault(name, []).append(value.detach().float().cpu())

    def summary(self) -> dict[str, float]:
        """Over all tokens of all ranks. `shift` is |π − μ|.

        `corrective_share` is the share of tokens whose gradient weight is negative: pulled back
        from beyond the trust region. `masked_share`: weight zero, no gradient at all.
        """
        column = {name: self.world.gather(torch.cat(parts)) for name, parts in self.columns.items()}
        weight, entropy = column["weight"], column["entropy"]
        spread = {
            f"{name}_{key}": value
            for name in ("ratio", "shift")
            for key, value in _spread(column[name]).items()
        }
        return {
            **spread,
            "entropy": float(entropy.mean()),
            "weight_mean": float(weight.mean()),
            "corrective_share": float((weight < 0).float().mean()),
            "masked_share": float((weight == 0).float().mean()),
            "trained_tokens": float(len(weight)),
        }


def _spread(values: Tensor) -> dict[str, float]:
    # torch.quantile refuses more than 2^24 values; kthvalue does not
    rank = max(1, round(0.99 * len(values)))
    return {
        "mean": float(values.mean()),
        "p99": float(values.kthvalue(rank).values),
        "max": float(values.max()),
    }
