"""The group baselines: what they leave alone and what they do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drpo_cli.advantages import group_mean, group_norm

scores_G = st.lists(st.floats(-100, 100), min_size=2, max_size=16)


@given(scores_G)
def test_group_mean_sums_to_zero_and_keeps_differences(scores):
    ((*found,),) = group_mean.advantages(group_mean.Config(), [scores])
    assert sum(found) == pytest.approx(0, abs=1e-10)
    for score, value in zip(scores, found, strict=True):
        assert value - found[0] == pytest.approx(score - scores[0], abs=1e-10)


@given(scores_G, st.floats(-10, 10), st.floats(0.5, 10))
def test_group_norm_ignores_shift_and_scale(scores, shift, scale):
    config = group_norm.Config(epsilon=1e-12)
    if max(scores) - min(scores) < 1e-3:
        scores = [*scores, max(scores) + 1]
    moved = [scale * score + shift for score in scores]
    (plain,), (other,) = (group_norm.advantages(config, [group]) for group in (scores, moved))
    assert other == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("module", [group_mean, group_norm])
@given(score=st.floats(-1e6, 1e6), size=st.integers(2, 64))
def test_equal_scores_give_exactly_zero(module, score, size):
    assert module.advantages(module.Config(), [[score] * size]) == [[0.0] * size]


def test_groups_do_not_see_each_other():
    groups = [[0.0, 1.0, 1.0], [5.0, 9.0]]
    for module in (group_mean, group_norm):
        together = module.advantages(module.Config(), groups)
        alone = [module.advantages(module.Config(), [group])[0] for group in groups]
        assert together == alone


def test_group_norm_divides_by_the_sample_standard_deviation():
    (found,) = group_norm.advantages(group_norm.Config(epsilon=1e-12), [[0.0, 2.0]])
    assert found == pytest.approx([-(2**-0.5), 2**-0.5])
