"""Soft penalty on long responses: 0 up to a length, then linearly down to −1.

With length n = |y| in tokens, s = `soft_limit` and l = `limit`:

    R(y) = 0 for n ≤ s,   (s − n) / (l − s) for s < n ≤ l,   −1 for n > l

Soft overlong punishment of DAPO (arXiv 2503.14476, Eq. 13), whose L_max is l and L_cache is l − s.
Set `weight` to scale it.
"""

from __future__ import annotations

from pydantic import model_validator

from drpo_cli.settings import Count, RewardSettings

INLINE = True


class Config(RewardSettings):
    """Options of the penalty."""

    soft_limit: Count
    """Longest response without a penalty, in tokens."""
    limit: Count
    """Length from which the score is −1, in tokens."""

    @model_validator(mode="after")
    def _check_order(self) -> Config:
        if self.limit <= self.soft_limit:
            raise ValueError(
                f"limit = {self.limit} must be above soft_limit = {self.soft_limit}; raise one "
                "or lower the other"
            )
        return self


def reward(tokens: tuple[int, ...], config: Config) -> float:
    """Between −1 and 0."""
    left = config.soft_limit - len(tokens)
    return max(min(left / (config.limit - config.soft_limit), 0.0), -1.0)


_CONFIG = Config(soft_limit=4, limit=8)
EXAMPLES = [
    ({"tokens": (1,) * 4, "config": _CONFIG}, 0.0),
    ({"tokens": (1,) * 5, "config": _CONFIG}, -0.25),
    ({"tokens": (1,) * 8, "config": _CONFIG}, -1.0),
    ({"tokens": (1,) * 99, "config": _CONFIG}, -1.0),
]
