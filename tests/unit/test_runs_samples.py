"""Rankings of samples: held against slow ones written in one line."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drpo_cli.runs.reader import Damage
from drpo_cli.runs.records import Records
from drpo_cli.runs.samples import measure_disagreement, read_columns, standardize
from support.reports import sample_line

VALUES = st.lists(st.one_of(st.none(), st.integers(-9, 9).map(lambda n: n / 8)), max_size=30)


def column(values: list[float | None]) -> np.ndarray:
    return np.array([math.nan if v is None else v for v in values], dtype=np.float64)


@given(VALUES, st.integers(1, 4), st.integers(1, 6))
def test_the_ranking_is_that_of_sorting(
    tmp_path_factory: pytest.TempPathFactory, values: list[float | None], texts: int, count: int
) -> None:
    archive = read_columns(tmp_path_factory.getbasetemp() / "not there")
    once = np.array([i % texts for i in range(len(values))], dtype=np.int64)
    best: dict[int, int] = {}
    for i in sorted(range(len(values)), key=lambda i: (values[i] or 0.0, i), reverse=True):
        if values[i] is not None:
            best.setdefault(int(once[i]), i)
    assert archive.top(column(values), count, once).tolist() == list(best.values())[:count]


@given(VALUES)
def test_standardized_values_have_mean_0_and_deviation_1(values: list[float | None]) -> None:
    known = [v for v in values if v is not None]
    found = standardize(column(values))
    if len(set(known)) < 2:
        assert np.isnan(found).all()
        return
    assert [v is None for v in values] == np.isnan(found).tolist()
    finite = found[np.isfinite(found)]
    assert statistics.fmean(finite) == pytest.approx(0, abs=1e-3)
    assert statistics.pstdev(finite) == pytest.approx(1, abs=1e-3)


@given(st.lists(st.tuples(*[st.one_of(st.none(), st.floats(-9, 9))] * 3), min_size=1, max_size=9))
def test_disagreement_is_largest_less_smallest(rows: list[tuple[float | None, ...]]) -> None:
    columns = [column([row[i] for row in rows]) for i in range(3)]
    for row, found in zip(rows, measure_disagreement(columns), strict=True):
        known = [v for v in row if v is not None]
        assert found == max(known) - min(known) if len(known) > 1 else np.isnan(found)


@pytest.mark.parametrize("values", [[1e308, -1e308, 1.0], [5e-324, 0.0], [0.1, 0.1, 0.1], [None]])
def test_values_without_a_usable_deviation_are_not_ranked(values: list[float | None]) -> None:
    assert np.isnan(standardize(column(values))).all()


def test_columns_of_a_file_whose_rewards_come_and_go(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    Records(path).extend(
        [
            sample_line(1, 0, "a", 1.0, {"right": 1.0}),
            sample_line(2, 0, "b", None, {"right": None, "tidy": 0.5}),
            {"step": 3, "prompt": "p", "completion": "a", "reward": 0.0},  # an old version's
            sample_line(4, 0, "é" * 100, 2.0, {"tidy": 0.25}),
        ]
    )
    with path.open("a") as file:
        file.write('{"step": 5, "prom')
    archive = read_columns(path)
    nan = math.nan
    np.testing.assert_equal(archive.totals_N, [1.0, nan, 0.0, 2.0])
    np.testing.assert_equal(archive.by_reward["right"], [1.0, nan, nan, nan])
    np.testing.assert_equal(archive.by_reward["tidy"], [nan, 0.5, nan, 0.25])
    assert archive.top(archive.totals_N, 9, archive.texts_N).tolist() == [3, 0]
    assert [(r["line"], r["completion"][:1]) for r in archive.records([3, 1])] == [
        (4, "é"),
        (2, "b"),
    ]


def test_half_a_surrogate_pair_is_a_text_like_others(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    texts = ["\ud800", "\\ud800", "😀", "\udfff and more"]
    Records(path).extend(sample_line(1, i, text, 1.0 * i, {}) for i, text in enumerate(texts))
    archive = read_columns(path)
    assert archive.damage == Damage()
    assert [r["completion"] for r in archive.records(range(4))] == texts
