"""The metrics of a rollout: what was skipped or failed is left out and counted, over all ranks."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from drpo_cli.experience import Experience
from drpo_cli.rewards.grading.grader import Usage
from drpo_cli.runs.metrics import failed_calls
from drpo_cli.step.metrics import generated_tokens, grading_metrics, rollout_metrics
from drpo_cli.types import Scores
from support.models import world
from support.ranks import open_ranks
from support.reports import group, uneven
from support.turns import grouped, played


def test_metrics_of_a_rollout() -> None:
    groups_P = [group(("ab", "abcd")), group(("a", "a"), truncated=True)]
    scores_P = [
        Scores((1.0, 0.0), {"right": (1.0, 0.0)}),
        Scores((0.5, 0.5), {"right": (0.5, 0.5)}),
    ]
    with world() as here:
        found = rollout_metrics(Experience.of(groups_P, scores_P), scores_P, here)
    assert found == {
        "reward": 0.5,
        "reward_std": pytest.approx(math.sqrt(0.125)),
        "rewards": {"right": 0.5},
        "skipped_samples": 0,
        "zero_advantage_groups": 0.5,
        "response_length": 2.0,
        "truncated_share": 0.5,
    }


@pytest.mark.parametrize("apart", [False, True])
def test_an_episode_counts_once_by_what_was_sampled(apart: bool) -> None:
    """Not its rows, and not what it was shown."""
    long, short = played([2, 9, 3, 1, 4]), played([1, 2, 1], seed=1, truncated=True)
    groups_P = grouped([[long, short], [short]], apart=apart)
    scores_P = [Scores((1.0, 1.0), {"env": (1.0, 1.0)}), Scores((4.0,), {"env": (4.0,)})]
    with world() as here:
        found = rollout_metrics(Experience.of(groups_P, scores_P), scores_P, here)
        assert generated_tokens(groups_P, here) == 13
    assert found == {
        "reward": 2.0,
        "reward_std": pytest.approx(math.sqrt(2)),
        "rewards": {"env": 2.0},
        "skipped_samples": 0,
        "zero_advantage_groups": 1.0,
        "response_length": pytest.approx(13 / 3),
        "truncated_share": pytest.approx(2 / 3),
    }


def test_skipped_samples_are_in_lengths_and_nothing_else() -> None:
    groups_P = [group(("ab", "abcd", "abcdef")), group(("a", "a"))]
    scores_P = [
        Scores(
            (1.0, 0.0, 1.0), {"right": (1.0, None, 1.0), "tidy": (0.5, 0.25, None)}, frozenset({1})
        ),
        Scores((3.0, 0.0), {"right": (3.0, None), "never": (None, None)}, frozenset({1})),
    ]
    with world() as here:
        found = rollout_metrics(Experience.of(groups_P, scores_P), scores_P, here)
    assert found["reward"] == pytest.approx(5 / 3)
    assert found["reward_std"] == pytest.approx(math.sqrt(11 / 3 - 25 / 9))
    assert found["rewards"] == {"right": pytest.approx(5 / 3), "tidy": 0.375}
    assert found["skipped_samples"] == 2
    assert found["zero_advantage_groups"] == 1  # the kept ones are all alike, or only one is left
    assert found["response_length"] == 14 / 5


def test_a_step_that_was_skipped_altogether_has_no_mean() -> None:
    scores = Scores((0.0, 0.0), {"right": (None, None)}, frozenset({0, 1}))
    with world() as here:
        found = rollout_metrics(Experience.of([group(("a", "b"))], [scores]), [scores], here)
    assert (found["reward"], found["reward_std"], found["rewards"]) == (None, None, {})
    assert (found["skipped_samples"], found["zero_advantage_groups"]) == (2, 1)


def test_ranks_agree_though_their_rewards_differ() -> None:
    with open_ranks(2) as ranks:
        first, second = ranks.run(uneven)
    assert first == second
    assert first["reward"] == pytest.approx(2 / 3)
    assert first["rewards"] == {"right": 1.0, "tidy": 0.25}
    assert first["skipped_samples"] == 1
    assert first["grading"] == {
        "right": {
            "calls": 3,
            "seconds": 1.5,
            "slowest": 0.75,
            "failures": {"timeout": 2, "crash": 1},
            "counts": {"tokens": 7},
        },
        "tidy": {
            "calls": 1,
            "seconds": 0.25,
            "slowest": 0.25,
            "failures": {},
            "counts": {"cost_usd": 0.5},
        },
    }
    assert failed_calls(first) == {("right", "timeout"): 2, ("right", "crash"): 1}


def test_grading_of_a_reward_that_was_not_called() -> None:
    with world() as here:
        found = grading_metrics(
            {"rare": Usage(), "used": Usage(1, 0.5, 0.5, Counter(), Counter())}, here
        )
    assert found["rare"] == {"calls": 0, "seconds": 0, "slowest": 0, "failures": {}, "counts": {}}
    assert failed_calls({"step": 1, "grading": found}) == failed_calls({"step": 1}) == Counter()
