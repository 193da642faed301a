"""Reward minus the mean reward of its group.

    A_i = R_i − mean(R_1 … R_G)

The group baseline of GRPO (arXiv 2402.03300) without the division by the standard deviation, which
Dr. GRPO (arXiv 2503.20783) shows to favour questions that are solved almost always or almost never.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from drpo_cli.settings import AdvantageSettings

MIN_GROUP = 2
EXAMPLES: list[tuple[dict[str, float], list[list[float]], list[list[float]]]] = [
    ({}, [[1.0, 0.0, 0.0, 1.0]], [[0.5, -0.5, -0.5, 0.5]]),
    ({}, [[1.0, 1.0], [3.0, 1.0]], [[0.0, 0.0], [1.0, -1.0]]),
]


class Config(AdvantageSettings):
    """It has no options."""


def advantages(config: Config, scores_PG: Sequence[Sequence[float]]) -> list[list[float]]:
    """Computes advantages in the shape of `scores_PG`; exactly zero in a group of equal scores."""
    return [_center(scores_G) for scores_G in scores_PG]


def _center(scores_G: Sequence[float]) -> list[float]:
    # statistics.mean is exact, a float sum is not: equal scores must give exactly 0.
    mean = statistics.mean(scores_G)
    return [float(score - mean) for score in scores_G]
