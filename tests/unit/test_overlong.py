"""What training makes of truncated responses."""

from __future__ import annotations

import pytest

from drpo_cli.step.overlong import shaped
from drpo_cli.types import Group, Prompt, Rollout, Scores

LONGEST = 20
LENGTHS = (3, 16, 17, 18, 20, 20)
CUT = (False, False, False, False, True, False)
TOTALS = (1.0, 0.5, 1.0, 0.0, 1.0, -1.0)


def handled(handling: str, buffer: int | None = None, longest: int = LONGEST) -> Scores:
    rollouts = tuple(
        Rollout((7,) * length, (-1.0,) * length, "x", truncated)
        for length, truncated in zip(LENGTHS, CUT, strict=True)
    )
    group = Group(Prompt("p", "p", (1,), None, {}), rollouts)
    return shaped(group, Scores(TOTALS, {"exact": TOTALS}), handling, longest, buffer)


@pytest.mark.parametrize("handling", ["keep", "mask"])
def test_keep_and_mask_leave_the_scores(handling: str) -> None:
    assert handled(handling).total_G == TOTALS


def test_zero_takes_the_reward_of_truncated_responses_only() -> None:
    assert handled("zero").total_G == (1.0, 0.5, 1.0, 0.0, 0.0, -1.0)


def test_soft_is_linear_in_the_last_tokens() -> None:
    """DAPO's Eq. 13 with L_max = 20 and L_cache = 4: ((20 − 4) − n) / 4 where 16 < n ≤ 20."""
    punishment = [0, 0, (16 - 17) / 4, (16 - 18) / 4, -1, -1]
    expected = [total + p for total, p in zip(TOTALS, punishment, strict=True)]
    assert handled("soft", 4).total_G == pytest.approx(expected)
    assert handled("soft").total_G == handled("soft", 4).total_G


def test_soft_over_the_whole_response() -> None:
    expected = [total - n / 20 for total, n in zip(TOTALS, LENGTHS, strict=True)]
    assert handled("soft", LONGEST).total_G == pytest.approx(expected)


def test_the_shortest_buffer_is_one_token() -> None:
    """A fifth of a response of at most 3 tokens is none."""
    prompt, rollouts = Prompt("p", "p", (1,), None, {}), []
    for length in (2, 3):
        rollouts.append(Rollout((7,) * length, (-1.0,) * length, "x", length == 3))
    group, scores = Group(prompt, tuple(rollouts)), Scores((1.0, 1.0), {})
    assert shaped(group, scores, "soft", 3, None).total_G == (1.0, 0.0)


@pytest.mark.parametrize("handling", ["keep", "mask", "zero", "soft"])
def test_each_reward_is_shown_as_it_was_given(handling: str) -> None:
    assert handled(handling).by_reward == {"exact": TOTALS}
