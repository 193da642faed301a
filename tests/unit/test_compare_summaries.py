"""The numbers of a grid against values worked out by hand."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from drpo_cli.errors import UserError
from drpo_cli.evaluate.metrics import Estimate
from drpo_cli.tools.compare.grid import make_cells, parse_axes
from drpo_cli.tools.compare.results import Result
from drpo_cli.tools.compare.statistics import (
    Share,
    average,
    components,
    compute_p,
    compute_sign_p,
    correct,
    detectable,
    estimate_share,
)
from drpo_cli.tools.compare.summaries import (
    Baseline,
    Reached,
    choose_baseline,
    compute_differences,
    summarise,
)

AXES = parse_axes(["objective=drpo,spo", "train.learning_rate=1e-3,5e-4"])
CELLS = [cell.point for cell in make_cells(AXES)]


Curve = tuple[tuple[int, float], ...]


def result(
    cell: int = 0,
    seed: int = 0,
    curve: Curve = ((0, 0.2), (10, 0.4), (30, 0.8)),
    **other: Any,
) -> Result:
    values: dict[str, Any] = {
        "folder": "f",
        "status": "finished",
        "reason": "",
        "collapsed": False,
        "base": "",
        "length": 30,
        **other,
    }
    return Result(point=CELLS[cell], seed=seed, curve=curve, **values)


def test_numbers_of_one_run() -> None:
    run = result(curve=((0, 0.2), (10, 0.8), (20, 0.8), (30, 0.4)))
    assert run.final == 0.4
    assert run.best == (10, 0.8)
    # (0.5 · 10 + 0.8 · 10 + 0.6 · 10) / 30
    assert run.area == pytest.approx(19 / 30)
    assert [run.reached(t) for t in (0.1, 0.5, 0.8, 0.9)] == [0, 10, 10, None]


def test_area_counts_uneven_steps_by_their_length() -> None:
    # (0.3 · 10 + 0.6 · 20) / 30
    assert result().area == pytest.approx(0.5)


def test_an_interval_over_seeds_is_students() -> None:
    found = average([[0.1, 0.2, 0.4, 0.3, 0.5]])
    half = 2.7764 * math.sqrt(0.025 / 5)  # t of 4 degrees of freedom × standard error
    assert found.value == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half), abs=1e-4)
    assert average([[0.0, 0.1]]).low == 0 and average([[1.0, 0.9]]).high == 1
    below = average([[-0.01, 0.1]], -1).low
    assert below == pytest.approx(0.045 - 12.706 * 0.055, abs=1e-4)


def test_p_values_are_corrected_by_holm() -> None:
    spread = [-0.02, 0.01, 0.03]
    lists = [[mean + x for x in spread] for mean in (0.5, 0.1, 0.05, 0.06)]
    raw = [float(ttest_1samp(values, 0).pvalue) for values in lists]
    found = correct([compute_p([values]) for values in [*lists, [0.1], [0.2, 0.2]]])
    assert found[4:] == [None, None]
    assert raw[0] < raw[1] < raw[3] < raw[2]
    expected = [4 * raw[0], 3 * raw[1], 2 * raw[3], max(2 * raw[3], raw[2])]
    assert [found[0], found[1], found[3], found[2]] == pytest.approx(expected)


@pytest.mark.parametrize("seeds", [5, 10, 20])
def test_of_tables_without_a_difference_one_in_twenty_has_an_arrow(seeds: int) -> None:
    """Six methods against a baseline, with scores of 200 problems that vary from seed to seed."""
    rng, tables, wrong, covered = np.random.default_rng(seeds), 1000, 0, 0
    for _ in range(tables):
        level = rng.beta(8, 4, size=seeds)  # what a seed does to every method
        chance = np.clip(level + rng.normal(0, 0.05, (7, seeds)), 0, 1)
        scores = rng.binomial(200, chance) / 200
        differences = (scores[1:] - scores[0]).tolist()
        found = correct([compute_p([values]) for values in differences])
        wrong += any(p is not None and p < 0.05 for p in found)
        first = average([differences[0]], -1)
        covered += first.low is None or first.high is None or first.low <= 0 <= first.high
    # four standard errors of a share of 5 % in so many tables
    margin = 4 * math.sqrt(0.05 * 0.95 / tables)
    assert wrong / tables <= 0.05 + margin
    assert abs(covered / tables - 0.95) <= margin


def test_an_interval_that_does_not_exist_is_none() -> None:
    assert average([[0.3]]) == Estimate(0.3, None, None)
    assert average([[0.0, 0.0, 0.0]]) == Estimate(0.0, None, None)


def test_a_cell_over_its_finished_runs() -> None:
    runs = [
        result(seed=0),
        result(seed=1, curve=((0, 0.2), (10, 0.5), (30, 0.2)), collapsed=True),
        result(seed=2, curve=((0, 0.2),), status="failed", reason="no", collapsed=None),
        result(seed=3, curve=((0, 0.2),), status="failed", reason="nan", collapsed=True),
    ]
    found = summarise(CELLS[0], runs, target=0.5)
    assert (found.finished, found.failed, found.runs) == (2, 2, 4)
    assert found.final is not None and found.final.value == pytest.approx(0.5)
    assert found.best is not None and found.best.value == pytest.approx(0.65)
    assert found.reached == Reached(2, 3, 30)  # what died of a NaN never reaches it
    assert found.collapsed is not None
    assert (found.collapsed.count, found.collapsed.runs) == (2, 3)
    assert summarise(CELLS[0], runs, target=None).reached is None
    none = summarise(CELLS[0], runs[2:3], target=0.5)
    assert (none.final, none.best, none.area, none.reached, none.collapsed) == (None,) * 5


def test_runs_that_never_reach_the_target_are_not_averaged() -> None:
    early, late = ((0, 0.2), (10, 0.9)), ((0, 0.2), (10, 0.3))
    two_of_three = [result(seed=0, curve=early), result(seed=1, curve=late), result(seed=2)]
    assert summarise(CELLS[0], two_of_three, 0.8).reached == Reached(2, 3, 30)
    one_of_three = [result(seed=0), result(seed=1, curve=late), result(seed=2, curve=late)]
    assert summarise(CELLS[0], one_of_three, 0.8).reached == Reached(1, 3, None)


def test_the_share_that_collapsed_has_wilsons_interval() -> None:
    interval = binomtest(2, 5).proportion_ci(0.95, method="wilson")
    found = estimate_share([[True, False, True, False, False]])
    assert (found.count, found.runs) == (2, 5)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert estimate_share([[True]]) == Share(1, 1, None, None)


def test_differences_pair_seeds_and_the_other_values() -> None:
    def at(final: float) -> tuple[tuple[int, float], ...]:
        return ((0, 0.2), (10, final))

    runs = {
        CELLS[0]: [result(0, 0, at(0.5)), result(0, 1, at(0.3)), result(0, 2, at(0.9))],
        CELLS[1]: [result(1, 0, at(0.1))],
        CELLS[2]: [result(2, 1, at(0.5)), result(2, 0, at(0.6)), result(2, 2, status="failed")],
        CELLS[3]: [result(3, 5, at(0.1))],
    }
    (found,) = compute_differences(
        runs, Baseline("objective", "drpo"), None
    )  # the last shares no seed
    assert (found.point, found.baseline, found.pairs) == (CELLS[2], CELLS[0], 2)
    assert found.final is not None and found.area is not None
    assert found.final.value == pytest.approx((0.1 + 0.2) / 2)
    assert found.area.value == pytest.approx(0.15 / 2)
    half = 12.706 * 0.05  # t of one degree of freedom × standard error
    assert (found.final.low, found.final.high) == pytest.approx(
        (0.15 - half, 0.15 + half), abs=1e-4
    )
    assert found.p == pytest.approx(0.2048, abs=1e-4) and found.sign == 0
    (other,) = compute_differences(runs, Baseline("train.learning_rate", "0.0005"), None)
    assert other.final is not None and (other.point, other.baseline) == (CELLS[0], CELLS[1])
    assert math.isclose(other.final.value, 0.4) and other.final.low is None
    assert other.p is None and other.sign == 0 and other.collapsed_p is None


def test_a_baseline_is_a_value_of_the_grid() -> None:
    assert choose_baseline(None, AXES) == Baseline("objective", "drpo")
    assert choose_baseline("spo", AXES) == Baseline("objective", "spo")
    assert choose_baseline("objective=spo", AXES) == Baseline("objective", "spo")
    assert choose_baseline("train.learning_rate=0.0005", AXES).key == "train.learning_rate"
    with pytest.raises(UserError, match=r"give one of drpo, spo, train\.learning_rate=0\.001"):
        choose_baseline("grpo", AXES)


def test_with_several_bases_the_mean_of_a_base_is_one_value() -> None:
    groups = [[0.1, 0.3], [0.4, 0.6], [0.8, 0.8]]
    means = [0.2, 0.5, 0.8]
    assert average(groups) == average([means])
    assert compute_p(groups) == pytest.approx(float(ttest_1samp(means, 0).pvalue))
    assert detectable(groups) == detectable([means])
    unbalanced = average([[0.2], [0.5], [0.8, 0.8, 0.8, 0.8]])
    assert unbalanced.value == pytest.approx(0.5)
    clustered = estimate_share([[True, True], [False, True], [False, False]])
    half = 4.3027 * 0.5 / math.sqrt(3)  # t of 2 degrees of freedom; cut at 0 and 1
    assert (clustered.count, clustered.runs) == (3, 6) and half > 0.5
    assert (clustered.low, clustered.high) == (0, 1)


def test_components_are_those_of_an_analysis_of_variance() -> None:
    # means 0.2, 0.5, 0.8: M_b = 2 · 0.09 = 0.18 and M_s = (0.02 + 0.02 + 0) / 3
    found = components([[0.1, 0.3], [0.4, 0.6], [0.8, 0.8]])
    within = 0.04 / 3
    assert found is not None and found.seeds == pytest.approx(math.sqrt(within))
    assert found.bases == pytest.approx(math.sqrt((0.18 - within) / 2))
    found = components([[0.1, 0.5], [0.2, 0.4]])  # M_b = 0: nothing below 0 comes out
    assert found is not None and found.bases == 0
    assert found.seeds == pytest.approx(math.sqrt(0.05))
    found = components([[0.1], [0.3]])
    assert found is not None and found.seeds is None
    assert found.bases == pytest.approx(math.sqrt(0.02))
    assert components([[0.1, 0.2, 0.3]]) is None


def test_components_of_unequal_groups_have_no_bias() -> None:
    rng = np.random.default_rng(0)
    sizes, variances = (2, 5, 3, 4), []
    for _ in range(2000):
        groups = [(rng.normal(0, 0.3) + rng.normal(0, 0.1, size=n)).tolist() for n in sizes]
        found = components(groups)
        assert found is not None and found.seeds is not None
        variances.append((found.bases**2, found.seeds**2))
    bases, seeds = np.mean(variances, axis=0)
    assert bases == pytest.approx(0.09, rel=0.1) and seeds == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("bases", [3, 5])
def test_of_tables_over_bases_one_in_twenty_has_an_arrow(bases: int) -> None:
    """Every method does better on some bases than on others, and on average like the baseline.

    Pooling all runs, as if seeds of one base were independent, gives half of the tables an arrow.
    """
    rng, tables, wrong, pooled, covered = np.random.default_rng(bases), 500, 0, 0, 0
    for _ in range(tables):
        on_base = rng.normal(0, 0.05, (6, bases, 1))
        methods = (on_base + rng.normal(0, 0.05, (6, bases, 4))).tolist()
        found = correct([compute_p(groups) for groups in methods])
        wrong += any(p is not None and p < 0.05 for p in found)
        together = correct([compute_p([list(chain(*groups))]) for groups in methods])
        pooled += any(p is not None and p < 0.05 for p in together)
        first = average(methods[0], -1)
        covered += first.low is not None and first.high is not None and first.low <= 0 <= first.high
    margin = 4 * math.sqrt(0.05 * 0.95 / tables)
    assert wrong / tables <= 0.05 + margin
    assert abs(covered / tables - 0.95) <= margin
    assert pooled / tables > 0.3


@pytest.mark.parametrize("pairs", [2, 3, 10])
def test_a_detectable_difference_is_detected_four_times_in_five(pairs: int) -> None:
    deviation = 0.05
    one = [deviation * x for x in unit_deviation(pairs)]
    mean = detectable([one])
    assert mean is not None
    rng, tables = np.random.default_rng(pairs), 1000
    seen = [
        p is not None and p < 0.05
        for p in (compute_p([row]) for row in rng.normal(mean, deviation, (tables, pairs)).tolist())
    ]
    assert np.mean(seen) == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / tables))


def unit_deviation(n: int) -> list[float]:
    """Any n values with a standard deviation of 1."""
    values = np.arange(n, dtype=float)
    return [float(x) for x in (values / values.std(ddof=1)).tolist()]


def test_a_difference_that_never_varies_has_no_detectable_size() -> None:
    assert detectable([[0.1, 0.1]]) is None and detectable([[0.1]]) is None


def test_the_sign_test_is_exact() -> None:
    assert compute_sign_p(5, 0) == compute_sign_p(0, 5) == pytest.approx(2 / 32)
    assert compute_sign_p(3, 3) == compute_sign_p(0, 0) == 1


def test_differences_in_time_to_target_and_collapse() -> None:
    early, late = ((0, 0.2), (10, 0.9), (30, 0.9)), ((0, 0.2), (10, 0.3), (30, 0.3))
    runs = {
        CELLS[0]: [result(0, seed, early) for seed in range(3)],
        CELLS[2]: [
            result(2, 0, early),
            result(2, 1, late, collapsed=True),
            # died of a NaN: not finished, and yet an outcome
            result(2, 2, early[:1], status="failed", reason="nan", collapsed=True),
            result(2, 3, late, status="failed", reason="no disk", collapsed=None),
        ],
    }
    (found,) = compute_differences(runs, Baseline("objective", "drpo"), 0.8)
    assert found.pairs == 2
    assert found.time is not None and found.time.value == pytest.approx((0 + 20 + 20) / 3)
    assert found.time_p == pytest.approx(float(ttest_1samp([0, 20, 20], 0).pvalue))
    assert (found.more, found.fewer) == (2, 0) and found.collapsed_p == pytest.approx(0.5)
    (without,) = compute_differences(runs, Baseline("objective", "drpo"), None)
    assert without.time is None and without.time_p is None


def test_pairs_are_of_one_base() -> None:
    def at(base: str, final: float) -> Result:
        return result(0, 0, ((0, 0.2), (10, final)), base=base)

    runs = {
        CELLS[0]: [at("a", 0.5), at("b", 0.3)],
        CELLS[2]: [at("b", 0.4), at("a", 0.7), at("c", 0.9)],
    }
    (found,) = compute_differences(runs, Baseline("objective", "drpo"), None)
    assert found.pairs == 2 and found.final is not None
    assert found.final.value == pytest.approx(0.15)
    assert found.spread is not None and found.spread.seeds is None
    assert found.spread.bases == pytest.approx(math.sqrt(0.005))


def test_holm_corrects_each_outcome_over_the_table() -> None:
    axes = parse_axes(["objective=drpo,spo,dppo"])
    points = [cell.point for cell in make_cells(axes)]
    worse = {
        points[i]: [
            result(0, seed, ((0, 0.5), (30, 0.1 * i)), collapsed=i > 0) for seed in range(6)
        ]
        for i in range(3)
    }
    found = compute_differences(worse, Baseline("objective", "drpo"), 0.9)
    assert [row.collapsed_p for row in found] == [pytest.approx(2 * 2 / 64)] * 2
    assert [row.collapsed_sign for row in found] == [0, 0]
