"""Advantages: what each of them keeps of the scores, and what it changes."""

import statistics
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drpo_cli.advantages import batch_norm, gae, group_mean, group_norm, rloo

scores_G = st.lists(st.floats(-100, 100), min_size=2, max_size=16)
scores_PG = st.lists(scores_G, min_size=1, max_size=6)


@given(scores_G)
def test_group_mean_sums_to_zero_and_keeps_differences(scores: list[float]) -> None:
    ((*found,),) = group_mean.advantages(group_mean.Config(), [scores])
    assert sum(found) == pytest.approx(0, abs=1e-10)
    for score, value in zip(scores, found, strict=True):
        assert value - found[0] == pytest.approx(score - scores[0], abs=1e-10)


@given(scores_G, st.floats(-10, 10), st.floats(0.5, 10))
def test_group_norm_ignores_shift_and_scale(
    scores: list[float], shift: float, scale: float
) -> None:
    config = group_norm.Config(epsilon=1e-12)
    if max(scores) - min(scores) < 1e-3:
        scores = [*scores, max(scores) + 1]
    moved = [scale * score + shift for score in scores]
    (plain,), (other,) = (group_norm.advantages(config, [group]) for group in (scores, moved))
    assert other == pytest.approx(plain, abs=1e-6)


def test_groups_do_not_influence_each_other() -> None:
    groups = [[0.0, 1.0, 1.0], [5.0, 9.0]]
    for module in (group_mean, group_norm, rloo):
        together = module.advantages(module.Config(), groups)
        alone = [module.advantages(module.Config(), [group])[0] for group in groups]
        assert together == alone


@given(scores_G)
def test_rloo_is_the_score_less_the_mean_of_the_others(scores: list[float]) -> None:
    ((*found,),) = rloo.advantages(rloo.Config(), [scores])
    for index, value in enumerate(found):
        others = scores[:index] + scores[index + 1 :]
        assert value == pytest.approx(scores[index] - sum(others) / len(others), abs=1e-9)


@given(scores_PG, st.sampled_from(["batch", "group"]))
def test_batch_norm_has_mean_0_and_deviation_1_over_the_batch(
    groups: list[list[float]], baseline: Literal["batch", "group"]
) -> None:
    config = batch_norm.Config(baseline=baseline, epsilon=1e-12)
    groups = [[0.0, 1.0], *groups]
    found = [value for row in batch_norm.advantages(config, groups) for value in row]
    assert statistics.mean(found) == pytest.approx(0, abs=1e-9)
    assert statistics.stdev(found) == pytest.approx(1, abs=1e-6)


def test_batch_norm_keeps_the_difference_of_groups_unless_their_mean_is_the_baseline() -> None:
    easy_and_hard = [[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    easy, hard = batch_norm.advantages(batch_norm.Config(), easy_and_hard)
    assert easy[0] == hard[3] and easy[3] == hard[0]
    easy, hard = batch_norm.advantages(batch_norm.Config(baseline="group"), easy_and_hard)
    assert 0 < easy[0] < hard[3] and easy[3] == -hard[3]


@pytest.mark.parametrize("baseline", ["batch", "group"])
def test_batch_norm_of_one_group_and_of_one_response(baseline: Literal["batch", "group"]) -> None:
    config = batch_norm.Config(baseline=baseline)
    (found,) = batch_norm.advantages(config, [[0.0, 0.0, 1.0]])
    (expected,) = group_norm.advantages(group_norm.Config(), [[0.0, 0.0, 1.0]])
    assert found == pytest.approx(expected)
    assert batch_norm.advantages(config, [[0.7]]) == [[0.0]]
    assert batch_norm.advantages(config, [[0.1], [0.1]]) == [[0.0], [0.0]]


def test_gae_is_the_discounted_sum_of_its_definition() -> None:
    values, discount, gae_lambda = [0.2, -0.3, 0.9, 0.4], 0.9, 0.8
    config = gae.Config(discount=discount, gae_lambda=gae_lambda)
    ((found,),) = gae.advantages(config, [[2.0]], [[values]])
    rewards, following = [0.0, 0.0, 0.0, 2.0], [*values[1:], 0.0]
    delta = [r + discount * n - v for r, n, v in zip(rewards, following, values, strict=True)]
    for t, value in enumerate(found):
        terms = [(discount * gae_lambda) ** (s - t) * delta[s] for s in range(t, len(delta))]
        assert value == pytest.approx(sum(terms))
