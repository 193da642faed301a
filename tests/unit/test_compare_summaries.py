"""The numbers of a grid against values worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from drpo_cli.errors import UserError
from drpo_cli.evaluate.metrics import Estimate
from drpo_cli.tools.compare.grid import make_cells, parse_axes
from drpo_cli.tools.compare.results import Result
from drpo_cli.tools.compare.summaries import (
    Baseline,
    Reached,
    Share,
    average_over_seeds,
    choose_baseline,
    compute_differences,
    corrected,
    estimate_share,
    summarise,
)

AXES = parse_axes(["objective=drpo,spo", "train.learning_rate=1e-3,5e-4"])
CELLS = make_cells(AXES)


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
        **other,
    }
    return Result(cell=CELLS[cell], seed=seed, curve=curve, **values)


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
    found = average_over_seeds([0.1, 0.2, 0.4, 0.3, 0.5])
    half = 2.7764 * math.sqrt(0.025 / 5)  # t of 4 degrees of freedom × standard error
    assert found.value == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half), abs=1e-4)
    assert average_over_seeds([0.0, 0.1]).low == 0 and average_over_seeds([1.0, 0.9]).high == 1
    below = average_over_seeds([-0.01, 0.1], -1).low
    assert below == pytest.approx(0.045 - 12.706 * 0.055, abs=1e-4)


def test_p_values_are_corrected_by_holm() -> None:
    spread = [-0.02, 0.01, 0.03]
    lists = [[mean + x for x in spread] for mean in (0.5, 0.1, 0.05, 0.06)]
    raw = [float(ttest_1samp(values, 0).pvalue) for values in lists]
    found = corrected([*lists, [0.1], [0.2, 0.2]])
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
        found = corrected(differences)
        wrong += any(p is not None and p < 0.05 for p in found)
        first = average_over_seeds(differences[0], -1)
        covered += first.low is None or first.high is None or first.low <= 0 <= first.high
    # four standard errors of a share of 5 % in so many tables
    margin = 4 * math.sqrt(0.05 * 0.95 / tables)
    assert wrong / tables <= 0.05 + margin
    assert abs(covered / tables - 0.95) <= margin


def test_an_interval_that_does_not_exist_is_none() -> None:
    assert average_over_seeds([0.3]) == Estimate(0.3, None, None)
    assert average_over_seeds([0.0, 0.0, 0.0]) == Estimate(0.0, None, None)


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
    assert found.reached == Reached(2, 2, 20.0)
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
    found = estimate_share(2, 5)
    assert (found.count, found.runs) == (2, 5)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert estimate_share(1, 1) == Share(1, 1, None, None)


def test_differences_pair_seeds_and_the_other_values() -> None:
    def at(final: float) -> tuple[tuple[int, float], ...]:
        return ((0, 0.2), (10, final))

    runs = {
        CELLS[0]: [result(0, 0, at(0.5)), result(0, 1, at(0.3)), result(0, 2, at(0.9))],
        CELLS[1]: [result(1, 0, at(0.1))],
        CELLS[2]: [result(2, 1, at(0.5)), result(2, 0, at(0.6)), result(2, 2, status="failed")],
        CELLS[3]: [result(3, 5, at(0.1))],
    }
    (found,) = compute_differences(runs, Baseline("objective", "drpo"))  # the last shares no seed
    assert (found.cell, found.baseline, found.pairs) == (CELLS[2], CELLS[0], 2)
    assert found.final.value == pytest.approx((0.1 + 0.2) / 2)
    assert found.area.value == pytest.approx(0.15 / 2)
    half = 12.706 * 0.05  # t of one degree of freedom × standard error
    assert (found.final.low, found.final.high) == pytest.approx(
        (0.15 - half, 0.15 + half), abs=1e-4
    )
    assert found.p == pytest.approx(0.2048, abs=1e-4) and found.sign == 0
    (other,) = compute_differences(runs, Baseline("train.learning_rate", "0.0005"))
    assert (other.cell, other.baseline) == (CELLS[0], CELLS[1])
    assert math.isclose(other.final.value, 0.4) and other.final.low is None
    assert other.p is None and other.sign == 0


def test_a_baseline_is_a_value_of_the_grid() -> None:
    assert choose_baseline(None, AXES) == Baseline("objective", "drpo")
    assert choose_baseline("spo", AXES) == Baseline("objective", "spo")
    assert choose_baseline("objective=spo", AXES) == Baseline("objective", "spo")
    assert choose_baseline("train.learning_rate=0.0005", AXES).key == "train.learning_rate"
    with pytest.raises(UserError, match=r"give one of drpo, spo, train\.learning_rate=0\.001"):
        choose_baseline("grpo", AXES)
