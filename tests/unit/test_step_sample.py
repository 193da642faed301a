"""Dynamic sampling: which groups a step trains on, and what that cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from drpo_cli.step.sample import teaches
from drpo_cli.types import Scores
from support import jobs
from support.models import world

Rounds = Sequence[jobs.Totals]
Row = list[float | None]
MIXED: Row = [1.0, 0.0]
ALL_RIGHT: Row = [1.0, 1.0]
ALL_WRONG: Row = [0.0, 0.0]


def drawn(rounds: Rounds, further: int, **options: float) -> dict[str, Any]:
    with world() as here:
        return jobs.drawn(here, [rounds], further, **options)


def test_a_group_teaches_where_its_totals_differ() -> None:
    assert teaches(Scores((0.5, 0.5, 0.25), {}))
    assert not teaches(Scores((0.5, 0.5), {})) and not teaches(Scores((0.5,), {}))
    assert not teaches(Scores((0.5, 0.5, 0.0), {}, frozenset({2})))
    assert teaches(Scores((0.5, 0.0, 0.0), {}, frozenset({2})))
    assert not teaches(Scores((0.0, 0.0), {}, frozenset({0, 1})))


def test_off_a_step_is_one_batch_whatever_its_scores() -> None:
    found = drawn([[ALL_WRONG, MIXED, ALL_RIGHT]], 0)
    assert found["ids"] == found["drawn"] == ["0-0", "0-1", "0-2"]
    assert found["rounds"] == 1 and "sampling_rounds" not in found


def test_a_batch_that_teaches_throughout_is_not_sampled_again() -> None:
    found = drawn([[MIXED, MIXED]], 3)
    assert found["ids"] == ["0-0", "0-1"]
    assert (found["sampling_rounds"], found["dropped_groups"], found["missing_groups"]) == (1, 0, 0)


def test_groups_of_equal_scores_are_replaced_in_order() -> None:
    rounds = [[ALL_WRONG, MIXED, ALL_RIGHT], [ALL_RIGHT, MIXED, ALL_WRONG], [MIXED, MIXED, MIXED]]
    found = drawn(rounds, 5)
    assert found["ids"] == ["0-1", "1-1", "2-0"]
    assert found["scores"] == [(1.0, 0.0)] * 3
    assert found["drawn"] == [f"{round_}-{place}" for round_ in range(3) for place in range(3)]
    assert (found["sampling_rounds"], found["dropped_groups"], found["missing_groups"]) == (3, 6, 0)


@pytest.mark.parametrize("further", [1, 2])
def test_a_spent_budget_is_filled_with_what_was_dropped_first(further: int) -> None:
    rounds = [[ALL_WRONG, MIXED, ALL_RIGHT]] + [[ALL_RIGHT] * 3] * further
    found = drawn(rounds, further)
    assert found["ids"] == ["0-1", "0-0", "0-2"]
    assert found["scores"] == [(1.0, 0.0), (0.0, 0.0), (1.0, 1.0)]
    assert found["sampling_rounds"] == 1 + further
    assert (found["dropped_groups"], found["missing_groups"]) == (3 * further, 2)


def test_the_scores_stay_with_their_groups() -> None:
    """The score of a group tells its place: round + place / 10."""
    rounds = [[[r + p / 10, 9.0 * (p % 2) + r + p / 10] for p in range(4)] for r in range(3)]
    found = drawn(rounds, 2)
    for name, (score, _) in zip(found["ids"], found["scores"], strict=True):
        round_, place = map(int, name.split("-"))
        assert score == round_ + place / 10
    assert found["ids"] == ["0-1", "0-3", "1-1", "1-3"]


def test_a_group_that_differs_by_skipped_samples_alone_is_replaced() -> None:
    found = drawn([[[1.0, 1.0, None], [1.0, None, 0.0]], [[None, None, None], [0.0, 1.0]]], 1)
    assert found["ids"] == ["0-1", "1-1"]
    assert (found["dropped_groups"], found["missing_groups"]) == (2, 0)


def test_pass_rates_are_of_samples_that_have_a_total() -> None:
    rounds: list[list[Row]]
    rounds = [[[1.0, None, 0.0, 0.0], [None, None], [0.5, 1.0]], [[None, 1.0], ALL_WRONG, MIXED]]
    rates = {"0-0": 1 / 3, "0-2": 0.5, "1-0": 1.0, "1-1": 0.0, "1-2": 0.5}
    assert drawn(rounds, 1)["pass_rates"] == rates
    assert drawn(rounds, 1, threshold=0.5)["pass_rates"] == rates | {"0-2": 1.0}


def test_usage_is_that_of_all_rounds() -> None:
    (usage,) = drawn([[ALL_WRONG], [ALL_RIGHT], [MIXED]], 2)["usage"].values()
    assert usage.calls == 3 and usage.slowest == 2.0
