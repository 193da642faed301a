"""What training makes of truncated responses."""

from __future__ import annotations

from typing import Any

import pytest

from drpo_cli.experience import Experience
from drpo_cli.settings import TrainSettings
from drpo_cli.step.overlong import with_overlong
from drpo_cli.types import Group, Prompt, Rollout, Scores
from support.turns import grouped, played, turn_rewards

LONGEST = 20
LENGTHS = (3, 16, 17, 18, 20, 20)
CUT = (False, False, False, False, True, False)
TOTALS = (1.0, 0.5, 1.0, 0.0, 1.0, -1.0)


def experience_of(
    lengths: tuple[int, ...], cut: tuple[bool, ...], totals: tuple[float, ...]
) -> Experience:
    rollouts = tuple(
        Rollout((7,) * length, (-1.0,) * length, "x", truncated)
        for length, truncated in zip(lengths, cut, strict=True)
    )
    group = Group(Prompt("p", "p", (1,), None, {}), rollouts)
    return Experience.of([group], [Scores(totals, {"exact": totals}, frozenset({1}))])


def handled(overlong: Any, buffer: int | None = None) -> Experience:
    settings = TrainSettings(overlong=overlong, overlong_buffer=buffer)
    return with_overlong(experience_of(LENGTHS, CUT, TOTALS), settings, LONGEST)


def test_keep_leaves_everything() -> None:
    before, after = experience_of(LENGTHS, CUT, TOTALS), handled("keep")
    assert after.score_S.tolist() == before.score_S.tolist() == list(TOTALS)
    assert after.loss_mask_T.tolist() == before.loss_mask_T.tolist()


def test_mask_leaves_the_scores_and_takes_out_the_losses_of_truncated_responses() -> None:
    after = handled("mask")
    assert after.score_S.tolist() == list(TOTALS)
    # row 1 was skipped by its rewards, row 4 is truncated
    assert after.loss_tokens_S.tolist() == [3, 0, 17, 18, 0, 20]
    assert after.scored_S.tolist() == [True, False, True, True, True, True]


def test_zero_takes_the_reward_of_truncated_responses_only() -> None:
    assert handled("zero").score_S.tolist() == [1.0, 0.5, 1.0, 0.0, 0.0, -1.0]


def test_soft_is_linear_in_the_last_tokens() -> None:
    """DAPO's Eq. 13 with L_max = 20 and L_cache = 4: ((20 − 4) − n) / 4 where 16 < n ≤ 20."""
    punishment = [0, 0, (16 - 17) / 4, (16 - 18) / 4, -1, -1]
    expected = [total + p for total, p in zip(TOTALS, punishment, strict=True)]
    assert handled("soft", 4).score_S.tolist() == expected
    assert handled("soft").score_S.tolist() == expected


def test_soft_over_the_whole_response() -> None:
    expected = [total - n / 20 for total, n in zip(TOTALS, LENGTHS, strict=True)]
    assert handled("soft", LONGEST).score_S.tolist() == pytest.approx(expected, abs=1e-15)


def test_the_shortest_buffer_is_one_token() -> None:
    """A fifth of a response of at most 3 tokens is less than one token."""
    short = experience_of((2, 3), (False, True), (1.0, 1.0))
    assert with_overlong(short, TrainSettings(overlong="soft"), 3).score_S.tolist() == [1.0, 0.0]


# turns of 12, 18 and 4 tokens, then of 9 and 10: only the first episode has a long one
PLAYED = [played([12, 30, 18, 2, 4], [1.0, 2.0, 0.5], 1), played([9, 40, 10], [1.0, 0.0], 2, True)]


@pytest.mark.parametrize("apart", [False, True])
def test_the_longest_turn_of_an_episode_is_what_is_overlong(apart: bool) -> None:
    """Neither all turns together nor observations; and the penalty is taken off once."""
    groups = grouped([PLAYED], apart=apart)
    exp = Experience.of(groups, [Scores((3.5, 1.0), {}, turn_rewards_G=turn_rewards(groups[0]))])
    soft = with_overlong(exp, TrainSettings(overlong="soft", overlong_buffer=4), LONGEST)
    assert soft.score_S[soft.first_E].tolist() == [3.5 + (16 - 18) / 4, 1.0]
    zero = with_overlong(exp, TrainSettings(overlong="zero"), LONGEST)
    assert zero.score_S[zero.first_E].tolist() == [3.5, 0.0]
    assert zero.reward_T[zero.reward_T != 0].tolist() == [1.0, 2.0, 0.5]
    mask = with_overlong(exp, TrainSettings(overlong="mask"), LONGEST)
    assert mask.sum_by_episode(mask.loss_tokens_S).tolist() == [34, 0]
    for after in (soft, zero, mask):
        same_S = after.score_S[after.first_E][after.place_in_episodes]
        assert after.score_S.tolist() == same_S.tolist()
