"""The numbers of a grid against values worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from scipy.stats import binomtest, bootstrap

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


def test_an_interval_over_seeds_is_the_percentile_bootstrap() -> None:
    import numpy as np

    values = [0.1, 0.2, 0.4, 0.3, 0.5]
    found = average_over_seeds(values)
    again = bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(7)
    ).confidence_interval
    assert found.value == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx((again.low, again.high), abs=0.01)


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
    assert (found.final.low, found.final.high) == pytest.approx((0.1, 0.2))
    (other,) = compute_differences(runs, Baseline("train.learning_rate", "0.0005"))
    assert (other.cell, other.baseline) == (CELLS[0], CELLS[1])
    assert math.isclose(other.final.value, 0.4) and other.final.low is None


def test_a_baseline_is_a_value_of_the_grid() -> None:
    assert choose_baseline(None, AXES) == Baseline("objective", "drpo")
    assert choose_baseline("spo", AXES) == Baseline("objective", "spo")
    assert choose_baseline("objective=spo", AXES) == Baseline("objective", "spo")
    assert choose_baseline("train.learning_rate=0.0005", AXES).key == "train.learning_rate"
    with pytest.raises(UserError, match=r"give one of drpo, spo, train\.learning_rate=0\.001"):
        choose_baseline("grpo", AXES)
