"""Reward minus a baseline, divided by the standard deviation over the whole batch.

    A_i = (C_i − mean(C)) / (std(C) + ε),    C_i = R_i, or R_i − mean of its group

REINFORCE++ (arXiv 2501.03262); with `baseline = "group"`, its variant with a baseline. Mean and
sample standard deviation (divisor N − 1) are over all N responses of the step, on all ranks. If all
C are equal, or the batch has one response, every advantage is 0.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from drpo_cli.settings import AdvantageSettings

MIN_GROUP = 1
EXAMPLES: list[tuple[dict[str, Any], list[list[float]], list[list[float]]]] = [
    ({"epsilon": 1.0}, [[1.0, 2.0], [3.0]], [[-0.5, 0.0], [0.5]]),
    ({"baseline": "group", "epsilon": 2.0}, [[3.0, 1.0], [9.0, 7.0]], [[0.316987, -0.316987]] * 2),
    ({}, [[1.0]], [[0.0]]),
]


class Config(AdvantageSettings):
    """Options of the batch-normalised advantage."""

    baseline: Literal["batch", "group"] = "batch"
    """What is subtracted from a reward: the batch's mean, or first the mean of its own group."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-6
    """Added to the standard deviation, in units of the reward; keeps equal scores at zero."""

    @property
    def min_group(self) -> int:
        """Samples that a prompt needs: a group of one would be its own baseline."""
        return 2 if self.baseline == "group" else 1


def advantages(config: Config, scores_PG: Sequence[Sequence[float]]) -> list[list[float]]:
    """Computes advantages in the shape of `scores_PG`, which holds every group of the step."""
    if config.baseline == "group":
        scores_PG = [_center(scores_G) for scores_G in scores_PG]
    scores = [score for scores_G in scores_PG for score in scores_G]
    mean = statistics.mean(scores) if scores else 0.0
    scale = config.epsilon + (statistics.stdev(scores) if len(scores) > 1 else 0.0)
    return [[float(score - mean) / scale for score in scores_G] for scores_G in scores_PG]


def _center(scores_G: Sequence[float]) -> list[float]:
    mean = statistics.mean(scores_G)
    return [float(score - mean) for score in scores_G]
