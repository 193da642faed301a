"""Collecting and crediting on two ranks: the same number of rounds, everyone's scores."""

from __future__ import annotations

import pytest

from support import jobs
from support.models import world
from support.ranks import Ranks

MIXED, FLAT = [1.0, 0.0], [1.0, 1.0]


def test_every_rank_samples_as_many_rounds_as_the_one_that_needs_most(two: Ranks) -> None:
    lucky = [[MIXED, MIXED], [FLAT, MIXED], [MIXED, MIXED]]
    unlucky = [[FLAT, FLAT], [MIXED, FLAT], [FLAT, MIXED]]
    first, second = two.run(jobs.drawn, scores=[lucky, unlucky], further_rounds=4)
    assert (first["ids"], second["ids"]) == (["0-0", "0-1"], ["1-0", "2-1"])
    assert len(first["drawn"]) == len(second["drawn"]) == 6
    for found in (first, second):
        assert found["sampling_rounds"] == 3
        assert found["dropped_groups"] == 4 + 4 and found["missing_groups"] == 0


def test_a_budget_spent_on_one_rank_ends_both(two: Ranks) -> None:
    first, second = two.run(
        jobs.drawn,
        scores=[[[MIXED, MIXED]] * 3, [[FLAT, MIXED], *[[FLAT, FLAT]] * 2]],
        further_rounds=2,
    )
    assert first["ids"] == ["0-0", "0-1"] and second["ids"] == ["0-1", "0-0"]
    for found in (first, second):
        assert (found["sampling_rounds"], found["missing_groups"]) == (3, 1)


def test_pass_rates_are_everyones(two: Ranks) -> None:
    scores = [[[MIXED, FLAT]], [[[None, None], [None, 1.0]]]]
    first, second = two.run(jobs.drawn, scores=scores, further_rounds=0)
    # the groups of both ranks have the same names here: the last rank's count
    assert first["pass_rates"] == second["pass_rates"] == {"0-0": 0.5, "0-1": 1.0}


@pytest.mark.parametrize("cut", [0, 1, 2])
@pytest.mark.parametrize("advantage", ["batch_norm", "group_norm", "group_mean", "rloo"])
def test_advantages_are_those_of_all_groups_on_one_rank(
    two: Ranks, advantage: str, cut: int
) -> None:
    scores = [[1.0, 0.0, 0.0], [0.5, 1.0, 0.5], [0.0, 1.0, 7.0]]
    with world() as here:
        expected = [values[0] for values in jobs.advantages(here, advantage, [scores])]
    shares = two.run(jobs.advantages, advantage=advantage, scores=[scores[:cut], scores[cut:]])
    assert [values[0] for share in shares for values in share] == expected
    assert [len(share) for share in shares] == [3 * cut, 9 - 3 * cut]


@pytest.mark.parametrize("cut", [0, 1, 2, 4])
@pytest.mark.parametrize("advantage", ["batch_norm", "group_norm", "group_mean", "rloo"])
def test_uneven_skips_give_what_one_rank_gives(two: Ranks, advantage: str, cut: int) -> None:
    scores: list[list[float | None]] = [
        [1.0, None, 0.0],
        [None, None, None],
        [0.5, None, None],
        [0.0, 1.0, 7.0],
    ]
    with world() as here:
        expected = [values[0] for values in jobs.advantages(here, advantage, [scores])]
    shares = two.run(jobs.advantages, advantage=advantage, scores=[scores[:cut], scores[cut:]])
    assert [values[0] for share in shares for values in share] == expected
    assert any(expected) and expected[1] == 0 and expected[3:6] == [0.0] * 3
