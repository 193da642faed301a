"""DRPO: SPO with a token's own ε, smooth at its edge, bounded, and with two thresholds."""

import itertools
import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from drpo_cli import plugins
from support.objectives import grid, run, take, weights_at

TWO = {"delta_low": 0.1, "delta_high": 0.3}


@pytest.mark.parametrize("delta", [0.05, 0.2, 12.5])
def test_it_is_spo_with_the_tokens_own_epsilon(delta: float) -> None:
    tokens = grid()
    ours = run("drpo", {"delta": delta}, tokens)
    for i, old in enumerate(tokens.old_logp_T.tolist()):
        one = take(tokens, torch.tensor([i]))._replace(response_T=None)
        loss_T, grad_T, weight_T = run("spo", {"epsilon": delta / math.exp(old)}, one)
        torch.testing.assert_close(loss_T[0], ours.loss_T[i], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(weight_T[0], ours.weight_T[i], rtol=1e-10, atol=1e-10)
        # The two terms of the gradient may cancel; this is their size.
        scale = tokens.adv_T[i].abs() * (tokens.logp_T[i] - old).exp() * (1 + weight_T[0].abs())
        assert (grad_T[0] - ours.grad_T[i]).abs() <= 1e-10 * scale


@pytest.mark.parametrize(("mu", "adv", "side"), [(0.3, 1.0, 1), (0.6, -2.0, -1)])
def test_it_fades_through_zero_at_the_edge_where_dppo_falls_off_a_cliff(
    mu: float, adv: float, side: int
) -> None:
    delta, near = 0.15, 1e-6
    pi = [mu + side * (delta - near), mu + side * (delta + near)]
    inside, outside = weights_at("drpo", {"delta": delta}, mu, pi, adv)
    assert inside == pytest.approx(near / delta) and outside == pytest.approx(-near / delta)
    masks = {"delta_low": delta, "delta_high": delta}
    assert weights_at("dppo", masks, mu, pi, adv) == [1.0, 0.0]


@pytest.mark.parametrize(("adv", "delta"), [(1.0, 0.3), (-1.0, 0.1)])
@pytest.mark.parametrize("mu", [1e-9, 0.01, 0.5, 0.99])
def test_the_weight_has_no_jump_anywhere(mu: float, adv: float, delta: float) -> None:
    steps = 2000
    low = max(mu * math.exp(-19.9), 1e-12)
    high = min(mu * math.exp(19.9), 1.0)
    pi = [low + (high - low) * i / steps for i in range(steps + 1)]
    weights = weights_at("drpo", TWO, mu, pi, adv)
    slope = (high - low) / steps / delta  # w is a straight line in π
    for before, after in itertools.pairwise(weights):
        assert before - after == pytest.approx(slope * adv, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("delta", [0.05, 0.2, 0.999, 1.0, 12.5])
def test_the_weight_is_bounded_and_corrects_only_below_delta_one(delta: float) -> None:
    tokens = grid()
    inside_N = ((tokens.logp_T - tokens.old_logp_T).abs() <= 20).nonzero().flatten()
    weight_T = run("drpo", {"delta": delta}, take(tokens, inside_N)).weight_T
    assert (weight_T >= 1 - 1 / delta - 1e-12).all()
    assert (weight_T <= 1 + 1 / delta + 1e-12).all()
    assert (weight_T < 0).any().item() == (delta < 1)


def test_spo_has_no_bound_where_drpo_has_one() -> None:
    mu, pi, adv = 1e-6, [0.1], 1.0
    assert weights_at("spo", {"epsilon": 0.2}, mu, pi, adv)[0] < -1e5
    assert weights_at("drpo", {"delta": 0.2}, mu, pi, adv)[0] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("given", [{"delta_low": 0.1, "delta_high": 0.1}, {"delta_low": 0.1}])
def test_two_thresholds_that_are_delta_change_nothing(given: dict[str, Any]) -> None:
    tokens = grid()
    for ours, theirs in zip(
        run("drpo", {"delta": 0.1, **given}, tokens),
        run("drpo", {"delta": 0.1}, tokens),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "rising", "falling"),
    [(TWO, 0.3, 0.1), ({"delta_low": 0.1}, 0.2, 0.1), ({"delta_high": 0.3}, 0.3, 0.2)],
)
def test_each_sign_of_the_advantage_has_its_own_edge(
    options: dict[str, Any], rising: float, falling: float
) -> None:
    up, down = 0.5 + rising, 0.5 - falling
    assert weights_at("drpo", options, 0.5, [up], 2.0)[0] == pytest.approx(0, abs=1e-12)
    assert weights_at("drpo", options, 0.5, [down], -2.0)[0] == pytest.approx(0, abs=1e-12)
    # A converging token of the same advantage is boosted by the same δ.
    assert weights_at("drpo", options, 0.5, [0.5 - rising], 2.0)[0] == pytest.approx(2)
    assert weights_at("drpo", options, 0.5, [0.5 + falling], -2.0)[0] == pytest.approx(2)


@pytest.mark.parametrize("option", ["delta", "delta_low", "delta_high"])
def test_a_threshold_is_above_zero(option: str) -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        plugins.load("objectives", "drpo").Config(**{option: 0})
