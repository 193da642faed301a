"""Reward minus the mean reward of its group, divided by the group's standard deviation.

    A_i = (R_i − mean(R_1 … R_G)) / (std(R_1 … R_G) + ε)

GRPO (arXiv 2402.03300). std is the sample standard deviation (divisor G − 1), as in verl and TRL.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from drpo_cli.settings import AdvantageSettings

MIN_GROUP = 2
EXAMPLES: list[tuple[dict[str, float], list[list[float]], list[list[float]]]] = [
    ({"epsilon": 0.5}, [[1.0, 2.0, 3.0]], [[-1 / 1.5, 0.0, 1 / 1.5]]),
    ({}, [[0.1, 0.1, 0.1]], [[0.0, 0.0, 0.0]]),
]


class Config(AdvantageSettings):
    """Options of the normalised group advantage."""

    epsilon: Annotated[float, Field(gt=0)] = 1e-6
    """Added to the standard deviation, in units of the reward; keeps equal scores at zero."""


def advantages(config: Config, scores_PG: Sequence[Sequence[float]]) -> list[list[float]]:
    """Computes advantages in the shape of `scores_PG`; every group needs at least two scores."""
    return [_normalize(scores_G, config.epsilon) for scores_G in scores_PG]


def _normalize(scores_G: Sequence[float], epsilon: float) -> list[float]:
    mean, std = statistics.mean(scores_G), statistics.stdev(scores_G)
    return [float(score - mean) / (std + epsilon) for score in scores_G]
