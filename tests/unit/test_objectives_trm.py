"""TRM: whole responses are kept or left out, by the largest and the mean divergence of each."""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from drpo_cli import plugins
from drpo_cli.types import Tokens
from support.objectives import run

NEAR = 1e-6
LONG = 8


def batch(*log_ratios: list[float], adv: float = 1.0, mu: float = 0.5) -> Tokens:
    """A response for each list, of the log r of its tokens; all tokens with one μ and A."""
    shift_T = torch.tensor([value for one in log_ratios for value in one], dtype=torch.float64)
    lengths = torch.tensor([len(one) for one in log_ratios])
    response_T = torch.repeat_interleave(torch.arange(len(log_ratios)), lengths)
    old_logp_T = torch.full_like(shift_T, math.log(mu))
    return Tokens(old_logp_T + shift_T, old_logp_T, torch.full_like(shift_T, adv), response_T)


def kept(options: dict[str, Any], tokens: Tokens) -> list[bool]:
    """Whether each response is kept. Its tokens must agree, and their gradients with the weight."""
    assert tokens.response_T is not None
    seen = run("trm", options, tokens)
    ratio_T = (tokens.logp_T - tokens.old_logp_T).exp()
    gradient_T = -tokens.adv_T * ratio_T * seen.weight_T
    torch.testing.assert_close(seen.grad_T, gradient_T, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(seen.loss_T, gradient_T, rtol=1e-10, atol=1e-10)
    found = [seen.weight_T[tokens.response_T == i] for i in range(int(tokens.response_T.max()) + 1)]
    assert all(len(set(weights.tolist())) == 1 for weights in found)
    return [weights[0].item() == 1 for weights in found]


def k3(log_r: float) -> float:
    return math.expm1(log_r) - log_r


@pytest.mark.parametrize("adv", [2.0, -2.0, 0.0])
def test_at_the_policy_that_sampled_it_is_the_plain_policy_gradient(adv: float) -> None:
    tokens = batch([0.0] * 3, [0.0], [0.0] * 5, adv=adv)
    for options in ({}, {"divergence": "binary"}, {"delta_max": 1e-9, "delta_mean": 1e-9}):
        seen, plain = run("trm", options, tokens), run("none", {}, tokens)
        assert all(torch.equal(a, b) for a, b in zip(seen, plain, strict=True))


@pytest.mark.parametrize("adv", [1.0, -1.0])
@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("bound", [0.05, 0.1])
def test_one_token_beyond_the_largest_divergence_masks_its_response(
    adv: float, side: int, bound: float
) -> None:
    """In either direction: ½ (log r)² = δ_max at |log r| = √(2 δ_max)."""
    edge = side * math.sqrt(2 * bound)
    inside, outside = [0.0, edge * (1 - NEAR), 0.01], [0.0, edge * (1 + NEAR), 0.01]
    tokens = batch(inside, outside, [edge * (1 - NEAR)] * LONG, adv=adv, mu=0.3)
    assert kept({"delta_max": bound}, tokens) == [True, False, True]


@pytest.mark.parametrize("bound", [0.001, 0.002])
def test_the_mean_divergence_masks_a_response_and_its_length_does_not(bound: float) -> None:
    """r − 1 − log r of one token, spread over a response, counts by its mean."""
    log_r = -0.2
    spread = k3(log_r) / bound  # tokens over which this token's divergence is the bound
    short, long = [log_r] + [0.0] * int(spread - 1), [log_r] + [0.0] * int(spread)
    assert sum(map(k3, short)) / len(short) > bound > sum(map(k3, long)) / len(long)
    tokens = batch(short, long, [0.03] * LONG, [0.09] * LONG, mu=0.3)
    assert k3(0.03) < bound < k3(0.09)
    assert kept({"delta_mean": bound}, tokens) == [False, True, True, False]


def test_without_thresholds_both_are_those_of_the_paper_for_both() -> None:
    config = plugins.load("objectives", "trm").Config
    assert (config().delta_max, config().delta_mean) == (0.1, 0.002)
    assert (config(delta_max=0.05).delta_max, config(delta_max=0.05).delta_mean) == (0.05, None)
    assert (config(delta_mean=0.001).delta_max, config(delta_mean=0.001).delta_mean) == (
        None,
        0.001,
    )
    high = [0.4] + [0.0] * 99  # the largest ½ (log r)² is 0.08, the mean of r − 1 − log r 0.0009
    drift = [0.08] * 8  # 0.0032 and 0.0033
    odd = [0.5] + [0.0] * 999  # 0.125 and 0.00015
    assert kept({}, batch(high, drift, odd)) == [True, False, False]
    assert kept({"delta_max": 0.1}, batch(high, drift, odd)) == [True, True, False]
    assert kept({"delta_mean": 0.002}, batch(high, drift, odd)) == [True, False, True]


def test_a_rare_token_is_far_by_its_ratio_and_near_in_probability() -> None:
    """From 1e-5 to 1e-4 the ratio is 10, and KL(Bern(μ) ‖ Bern(π)) 7e-5."""
    tokens = batch([math.log(10)], mu=1e-5)
    assert kept({}, tokens) == [False]
    assert kept({"divergence": "binary"}, tokens) == [True]
    likely = batch([math.log(0.7 / 0.9)], mu=0.9)  # KL 0.116
    assert kept({"divergence": "binary", "delta_max": 0.12}, likely) == [True]
    assert kept({"divergence": "binary", "delta_max": 0.11}, likely) == [False]


def test_the_binary_divergence_is_at_most_that_of_the_vocabulary() -> None:
    generator = torch.Generator().manual_seed(0)
    mu_TV, pi_TV = torch.randn(2, 200, 30, generator=generator, dtype=torch.float64).softmax(-1)
    whole_T = (mu_TV * (mu_TV / pi_TV).log()).sum(-1)
    for sampled in range(3):
        logp_T, old_logp_T = pi_TV[:, sampled].log(), mu_TV[:, sampled].log()
        tokens = Tokens(logp_T, old_logp_T, torch.ones(200), torch.arange(200))
        for index, bound in enumerate(whole_T.tolist()):
            if index % 20 == 0:
                weight_T = run("trm", {"divergence": "binary", "delta_max": bound}, tokens).weight_T
                assert weight_T[index] == 1


def test_a_broken_log_prob_masks_its_response_alone() -> None:
    tokens = batch([0.0, -1e6, 0.0], [0.0, 0.01], [0.02, 0.0])
    seen = run("trm", {}, tokens)
    assert seen.weight_T.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert all(values_T.isfinite().all() for values_T in seen)


def test_without_numbers_all_tokens_are_one_response() -> None:
    tokens = batch([0.0, 0.01], [0.5])
    assert run("trm", {}, tokens).weight_T.tolist() == [1, 1, 0]
    assert run("trm", {}, tokens._replace(response_T=None)).weight_T.tolist() == [0, 0, 0]


def test_the_order_of_tokens_does_not_matter() -> None:
    tokens = batch([0.0, 0.5, 0.1], [0.01] * 4)
    assert tokens.response_T is not None
    shuffled = Tokens(*(column.flip(0) for column in tokens if column is not None))
    assert kept({}, tokens) == kept({}, shuffled) == [False, True]


@pytest.mark.parametrize(
    "options", [{"delta_max": 0.0}, {"delta_mean": -1.0}, {"divergence": "kl"}]
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        plugins.load("objectives", "trm").Config(**options)


def test_it_says_which_bounds_it_has() -> None:
    plugin = plugins.load("objectives", "trm")
    assert plugin.regime is not None
    assert "(log r)² > 0.1 or the mean of r − 1 − log r is above 0.002" in plugin.regime(
        plugin.Config()
    )
    assert "0.002" not in plugin.regime(plugin.Config(delta_max=0.3))
    assert "Bern(π)) > 0.3," in plugin.regime(plugin.Config(delta_max=0.3, divergence="binary"))
