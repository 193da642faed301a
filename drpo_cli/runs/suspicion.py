"""A first sign of reward hacking: the total rises while a reward that should rise too falls.

A trend is a rank correlation with the step (Spearman's ρ) over the means of `SPANS` spans of equal
length. Its p-value is that of a t-test with fewer observations than spans where neighbours are
alike: n (1 − φ) / (1 + φ) with φ the correlation of neighbours around the trend (Bayley and
Hammersley 1946). Both trends need a small p-value; the limit of the falling one is divided by the
number of pairs examined (Bonferroni), so that a run with many metrics is not suspected more often.
The last half of a run is examined separately too: what a reward stands for often rises before it
falls (arXiv 2210.10760). The test cannot distinguish a random walk from a series with a trend.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drpo_cli.runs.metrics import StepMetrics
from drpo_cli.runs.spec import Role, Roles, role_of

SPANS = 20
MIN_STEPS = SPANS
LEVEL = 0.01

Series = list[tuple[int, float]]
"""A step and a mean over its samples, in the order of steps."""


@dataclass(frozen=True)
class Trend:
    """How a series changes with the step.

    rho          Spearman's ρ, −1 to 1
    p            probability of a ρ at least as far in that direction without a trend
    first, last  means of the first and the last tenth
    """

    rho: float
    p: float
    first: float
    last: float


@dataclass(frozen=True)
class Pair:
    """The total and one reward over a part of a run; `bad` where their trends disagree.

    The reward's trend is tested for falling, or for rising where its weight is negative.
    """

    name: str
    role: Role
    window: str
    total: Trend
    reward: Trend
    bad: bool


def pairs(metrics: Sequence[StepMetrics], roles: Roles) -> list[Pair]:
    """Compares every reward with the total, over each part of the run that is long enough."""
    found = [
        (name, role_of(roles, name), window, total, trend)
        for name in reward_names(metrics, roles)
        for window, part in _windows(metrics)
        if (total := _trend(series(part), 1)) is not None
        if (trend := _trend(series(part, name), -role_of(roles, name).sign)) is not None
    ]
    return [Pair(*one, bad=one[3].p <= LEVEL and one[4].p <= LEVEL / len(found)) for one in found]


def suspicious(found: Sequence[Pair]) -> list[Pair]:
    """The bad pairs, each reward once: over the whole run where that is bad."""
    first: dict[str, Pair] = {}
    for pair in found:
        if pair.bad:
            first.setdefault(pair.name, pair)
    return list(first.values())


def reward_names(metrics: Sequence[StepMetrics], roles: Roles) -> list[str]:
    """The rewards of the spec, then those that only the metrics have."""
    seen = {name: None for record in metrics for name in record.get("rewards", {})}
    return list(dict.fromkeys([*roles, *seen]))


def series(metrics: Sequence[StepMetrics], name: str | None = None) -> Series:
    """The mean of a reward, or of the total, on each step that has one."""
    values = (
        (r["step"], r.get("reward") if name is None else r.get("rewards", {}).get(name))
        for r in metrics
    )
    return [(step, value) for step, value in values if value is not None]


def ends(points: Series) -> tuple[float, float]:
    """Means of the first and of the last tenth of the points, at least one point each."""
    values = [value for _, value in points]
    count = max(1, len(values) // 10)
    return float(np.mean(values[:count])), float(np.mean(values[-count:]))


def _windows(
    metrics: Sequence[StepMetrics],
) -> Iterator[tuple[str, Sequence[StepMetrics]]]:
    steps = [record for record in metrics if "reward" in record]
    yield "the run", steps
    yield "the run's last half", steps[len(steps) // 2 :]


def _trend(points: Series, direction: int) -> Trend | None:
    """The trend, tested in `direction`; None with too few values or only equal ones."""
    from scipy.stats import rankdata, spearmanr

    if len(points) < MIN_STEPS:
        return None
    values = np.array([value for _, value in points], dtype=np.float64)
    means = np.array([span.mean() for span in np.array_split(values, SPANS)])
    if np.ptp(means) == 0:
        return None
    steps = np.arange(SPANS) - (SPANS - 1) / 2
    rho = float(spearmanr(steps, means).statistic)
    around = rankdata(means) - (SPANS + 1) / 2 - rho * steps
    return Trend(rho, _p_value(direction * rho, around), *ends(points))


def _p_value(rho: float, around: NDArray[np.float64]) -> float:
    """One-sided p-value of a rank correlation above 0; `around` holds the ranks' residuals."""
    from scipy.stats import t

    if abs(rho) > 1 - 1e-9:
        return float(rho < 0)
    alike = max(0.0, float(around[1:] @ around[:-1] / (around @ around)))
    freedom = max(1.0, len(around) * (1 - alike) / (1 + alike) - 2)
    return float(t.sf(rho * math.sqrt(freedom / (1 - rho**2)), freedom))
