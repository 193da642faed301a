"""Means, intervals, tests and power of a comparison, over seeds or over base models.

Values come in groups, one per base model, each with a value per seed. With one group the seeds are
the sample. With several the bases are: a method may do better on one base than on another, so the
seeds of one base are not independent of each other. The mean of a base over its seeds is then one
value, and intervals are Student's t with B − 1 degrees of freedom. That is exact for normal effects
of base and seed with the same number of seeds for each base.
"""

from __future__ import annotations

import math
import statistics as basic
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from drpo_cli.evaluate.metrics import CONFIDENCE, POWER, ROUNDING, Estimate

Groups = Sequence[Sequence[float]]
"""Values by base model, one per seed; a single group where there is one base."""


@dataclass(frozen=True)
class Share:
    """`count` of `runs`, with a 95 % interval; its ends are None where there is none."""

    count: int
    runs: int
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Spread:
    """Standard deviations of two components of a value: the base model, and the seed within it."""

    bases: float
    seeds: float | None


def sample(groups: Groups) -> list[float]:
    """The values that count as independent: one per base, or per seed where there is one base."""
    if len(groups) == 1:
        return list(groups[0])
    return [_mean(group) for group in groups]


def average(groups: Groups, lowest: float = 0.0, highest: float = 1.0) -> Estimate:
    """Mean and 95 % interval of values in [lowest, highest].

    The interval is Student's t, cut at these bounds. There is none when all values are equal.
    """
    values = sample(groups)
    mean, error = _mean(values), _standard_error(values)
    if error is None:
        return Estimate(mean, None, None)
    half = _critical(len(values)) * error
    return Estimate(mean, max(lowest, mean - half), min(highest, mean + half))


def compute_p(groups: Groups) -> float | None:
    """The p-value of a mean of 0 by Student's t; None where nothing varies."""
    values = sample(groups)
    if (error := _standard_error(values)) is None:
        return None
    from scipy.special import stdtr  # scipy.stats.ttest_1samp takes a hundred times as long

    return float(2 * stdtr(len(values) - 1, -abs(_mean(values)) / error))


def compute_sign_p(more: int, fewer: int) -> float:
    """The exact two-sided p-value of the sign test: `more` of `more + fewer` pairs by chance."""
    if more + fewer == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(more, more + fewer).pvalue)


def correct(found: Sequence[float | None]) -> list[float | None]:
    """Corrects p-values for their number by Holm (1979); None stays and does not count."""
    ranked = sorted((p, place) for place, p in enumerate(found) if p is not None)
    corrected, largest = list(found), 0.0
    for rank, (p, place) in enumerate(ranked):
        largest = max(largest, min(1.0, p * (len(ranked) - rank)))
        corrected[place] = largest
    return corrected


def detectable(groups: Groups) -> float | None:
    """The smallest true mean that a t-test on so many values detects with 80 % power at p < 0.05.

    From the values' standard deviation, taken as the true one, by the noncentral t distribution.
    None where nothing varies.
    """
    values = sample(groups)
    error = _standard_error(values)
    return None if error is None else _detected_errors(len(values)) * error


def components(groups: Groups) -> Spread | None:
    """Standard deviations between bases and between seeds, by the method of moments of ANOVA.

    With M_b and M_s the mean squares between bases and within them, σ_s² = M_s and
    σ_b² = (M_b − M_s) / n, at least 0; n is the number of seeds per base, or where it differs,
    (N − Σ n_i² / N) / (B − 1). With one seed per base the two cannot be separated: both are in
    `bases`, and `seeds` is None. None for one base.
    """
    if len(groups) < 2:
        return None
    sizes = [len(group) for group in groups]
    total, bases = sum(sizes), len(groups)
    means = [_mean(group) for group in groups]
    grand = math.fsum(n * m for n, m in zip(sizes, means, strict=True)) / total
    between = math.fsum(n * (m - grand) ** 2 for n, m in zip(sizes, means, strict=True))
    if total == bases:
        return Spread(math.sqrt(between / (bases - 1)), None)
    squares = (
        math.fsum((x - m) ** 2 for x in group) for group, m in zip(groups, means, strict=True)
    )
    within = math.fsum(squares) / (total - bases)
    size = (total - sum(n * n for n in sizes) / total) / (bases - 1)
    variance = max(0.0, (between / (bases - 1) - within) / size)
    return Spread(math.sqrt(variance), math.sqrt(within))


def estimate_share(groups: Sequence[Sequence[bool]]) -> Share:
    """Estimates a share of runs: Wilson's interval over seeds, or Student's t over bases."""
    count, runs = sum(map(sum, groups)), sum(map(len, groups))
    if len(groups) > 1:
        found = average(groups)
        return Share(count, runs, found.low, found.high)
    if runs < 2:
        return Share(count, runs, None, None)
    from scipy.stats import binomtest

    interval = binomtest(count, runs).proportion_ci(CONFIDENCE, method="wilson")
    return Share(count, runs, float(interval.low), float(interval.high))


def _standard_error(values: Sequence[float]) -> float | None:
    """The standard error of the mean; None where nothing varies."""
    if len(values) < 2 or max(values) - min(values) < ROUNDING:
        return None
    return basic.stdev(values) / math.sqrt(len(values))


@lru_cache
def _critical(n: int) -> float:
    """The mean of n values, in standard errors, at which p is 0.05."""
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2))


@lru_cache
def _detected_errors(n: int) -> float:
    """The true mean, in standard errors, that a t-test on n values detects with `POWER`."""
    from scipy.special import nctdtrinc

    # the other tail adds less than 1e-5 to the power
    return float(nctdtrinc(n - 1, 1 - POWER, _critical(n)))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
