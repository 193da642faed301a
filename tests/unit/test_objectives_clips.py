"""The objectives that cut, cap or gate: where their edges are, and what happens beyond."""

import itertools
import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from drpo_cli import plugins
from drpo_cli.objectives import dppo
from support.objectives import run, singles, weights_at

NEAR = 1e-9


@pytest.mark.parametrize(
    ("options", "edge", "adv"),
    [
        ({}, 1.2, 1.0),
        ({}, 0.8, -1.0),
        ({"epsilon_high": 0.28}, 1.28, 1.0),
        ({"epsilon_low": 0.1}, 0.9, -1.0),
        ({"dual_clip": 3.0}, 3.0, -1.0),
    ],
)
def test_ppo_has_a_cliff_in_the_ratio(options: dict[str, Any], edge: float, adv: float) -> None:
    outward = NEAR if edge > 1 else -NEAR
    pi = [0.1 * (edge - outward), 0.1 * (edge + outward)]
    assert weights_at("ppo_clip", options, 0.1, pi, adv) == [1.0, 0.0]


@pytest.mark.parametrize(("adv", "side"), [(1.0, 1), (-1.0, -1)])
@pytest.mark.parametrize("options", [{"divergence": "tv"}, {"divergence": "kl"}])
def test_dppo_has_a_cliff_and_only_where_a_token_diverges(
    options: dict[str, Any], adv: float, side: int
) -> None:
    pi = [0.5 + side * shift for shift in (-0.4, -0.01, 0.01, 0.145, 0.4)]
    assert weights_at("dppo", options, 0.5, pi, adv) == [1.0, 1.0, 1.0, 1.0, 0.0]


def test_the_dual_clip_caps_the_loss_of_falling_tokens_alone() -> None:
    old, ratios = math.log(1e-3), [0.5, 1.0, 2.9, 3.1, 500.0]
    for adv in (-2.0, 2.0):
        tokens = singles([(old + math.log(r), old, adv) for r in ratios])
        plain, capped = (run("ppo_clip", o, tokens) for o in ({}, {"dual_clip": 3.0}))
        if adv > 0:
            assert torch.equal(plain.loss_T, capped.loss_T)
            assert torch.equal(plain.grad_T, capped.grad_T)
        else:
            expected = [1.6, 2.0, 5.8, 6.0, 6.0]
            assert capped.loss_T.tolist() == pytest.approx(expected, rel=1e-10)
            assert capped.grad_T.tolist() == pytest.approx([0, 2, 5.8, 0, 0], rel=1e-10)
            assert plain.loss_T[-1] == pytest.approx(1000)


def test_the_dual_clip_is_above_one() -> None:
    with pytest.raises(ValidationError, match="greater than 1"):
        plugins.load("objectives", "ppo_clip").Config(dual_clip=1.0)


@pytest.mark.parametrize("adv", [1.0, -1.0])
def test_cispo_drops_no_token_and_caps_what_one_contributes(adv: float) -> None:
    old, ratios = math.log(1e-4), [1e-3, 0.5, 1.0, 3.9, 4.1, 1e4]
    tokens = singles([(old + math.log(r), old, adv) for r in ratios])
    unbounded, bounded = (run("cispo", o, tokens) for o in ({}, {"epsilon_low": 0.2}))
    expected = [-adv * r for r in (1e-3, 0.5, 1.0, 3.9, 4.0, 4.0)]
    assert unbounded.grad_T.tolist() == pytest.approx(expected, rel=1e-10)
    assert bounded.grad_T.tolist() == pytest.approx([-0.8 * adv] * 2 + expected[2:], rel=1e-10)


def test_cispo_without_a_lower_bound_is_below_its_cap_the_plain_policy_gradient() -> None:
    tokens = singles([(old + 0.3, old, adv) for old in (-5.0, -0.5) for adv in (-1.0, 1.0)])
    assert torch.allclose(
        run("cispo", {}, tokens).grad_T, run("none", {}, tokens).grad_T, rtol=1e-12
    )


@pytest.mark.parametrize(("adv", "tau"), [(1.0, 1.0), (-1.0, 1.05)])
def test_sapo_fades_on_both_sides_without_a_cliff(adv: float, tau: float) -> None:
    ratios = [i / 1000 for i in range(1, 10_000)]
    weights = weights_at("sapo", {}, 0.1, [0.1 * r for r in ratios], adv)
    assert max(weights) == weights[999] == pytest.approx(1, abs=1e-10)
    # The slope of 4 p (1 − p) in r is at most 4 τ max |p (1 − p)(1 − 2p)| = 4 τ / (6 √3).
    steepest = 4 * tau / (6 * math.sqrt(3)) / 1000
    jumps = [abs(b - a) for a, b in itertools.pairwise(weights)]
    assert 0.9 * steepest < max(jumps) <= steepest * (1 + 1e-6)
    gate = 1 / (1 + math.exp(tau))
    assert weights[0] == pytest.approx(4 * gate * (1 - gate), abs=1e-3)
    assert 0 < weights[-1] < 2e-3


def test_sapo_fades_sooner_for_falling_tokens() -> None:
    up, down = (weights_at("sapo", {}, 0.1, [0.2], adv)[0] for adv in (1.0, -1.0))
    assert down < up


def test_kl_of_certain_tokens_is_a_number_or_infinite() -> None:
    for dtype in (torch.float32, torch.float64):
        logp_T = torch.tensor([0.0, 0.0, -1e-12, -60.0, 1e-7, -0.5], dtype=dtype)
        old_T = torch.tensor([0.0, -1.0, 0.0, 0.0, 0.0, -0.5], dtype=dtype)
        kl_T = dppo.binary_kl(logp_T, old_T)
        assert kl_T.tolist() == [0.0, math.inf, pytest.approx(1e-12), 60.0, 0.0, 0.0]


def test_dppo_takes_the_threshold_of_its_divergence_unless_set() -> None:
    kl = plugins.load("objectives", "dppo").Config(divergence="kl", delta_high=0.3)
    assert (kl.delta_low, kl.delta_high) == (0.05, 0.3)
