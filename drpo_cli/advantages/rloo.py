"""Reward minus the mean reward of the group's other samples.

    A_i = R_i − mean(R_j, j ≠ i) = G / (G − 1) · (R_i − mean(R_1 … R_G))

RLOO (arXiv 2402.14740). A baseline that does not depend on the sample's own reward leaves the
policy gradient unbiased. It is `group_mean` times G / (G − 1).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from drpo_cli.settings import AdvantageSettings

MIN_GROUP = 2
EXAMPLES: list[tuple[dict[str, float], list[list[float]], list[list[float]]]] = [
    ({}, [[1.0, 0.0, 0.0]], [[1.0, -0.5, -0.5]]),
    ({}, [[3.0, 1.0], [0.1, 0.1]], [[2.0, -2.0], [0.0, 0.0]]),
]


class Config(AdvantageSettings):
    """It has no options."""


def advantages(config: Config, scores_PG: Sequence[Sequence[float]]) -> list[list[float]]:
    """Computes advantages in the shape of `scores_PG`; every group needs at least two scores."""
    return [_compare_with_others(scores_G) for scores_G in scores_PG]


def _compare_with_others(scores_G: Sequence[float]) -> list[float]:
    # From the exact mean of the group, not from sums without i: equal scores must give exactly 0.
    mean, factor = statistics.mean(scores_G), len(scores_G) / (len(scores_G) - 1)
    return [float(score - mean) * factor for score in scores_G]
