"""CPPO against its recurrence in plain floats, and by hand at each of its edges."""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from drpo_cli import plugins
from drpo_cli.types import Tokens
from support.objectives import run

NEAR = 1e-6
FIXED = {"adaptive_budget": False}
OPTIONS: list[dict[str, Any]] = [
    {},
    FIXED,
    {"delta": 0.05, "weight_floor": 0.5, "budget": 0.005},
    {"delta": 0.3, "weight_floor": 1.0, "budget": 0.1, **FIXED},
    {"delta": 0.1, "weight_floor": 0.2, "budget": 0.03},
]


def batch(*rows: list[tuple[float, float]], adv: float = 1.0) -> Tokens:
    """A response for each list, of the (μ, π) of its tokens in order; all tokens with one A."""
    mu_pi_T2 = torch.tensor([pair for row in rows for pair in row], dtype=torch.float64)
    lengths = torch.tensor([len(row) for row in rows])
    response_T = torch.repeat_interleave(torch.arange(len(rows)), lengths)
    old_logp_T, logp_T = mu_pi_T2.log().T.clone()
    return Tokens(logp_T, old_logp_T, torch.full_like(logp_T, adv), response_T)


def ragged(seed: int, scale: float) -> Tokens:
    """Responses of 1 to 40 tokens whose log r spreads by `scale`, each with one advantage."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([7, 1, 40, 2, 13, 25])
    response_T = torch.repeat_interleave(torch.arange(6), lengths)
    count = len(response_T)
    old_logp_T = (0.02 + 0.93 * torch.rand(count, generator=generator, dtype=torch.float64)).log()
    noise_T = scale * torch.randn(count, generator=generator, dtype=torch.float64)
    adv_T = torch.tensor([1.0, -2.0, 0.5, 1.0, -1.0, 0.0], dtype=torch.float64)[response_T]
    return Tokens((old_logp_T + noise_T).clamp(max=-1e-9), old_logp_T, adv_T, response_T)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    rank = share * (len(ordered) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def expected(tokens: Tokens, options: dict[str, Any]) -> list[float]:
    """The weights of Algorithm 1, token by token; δ_b by Eq. 22."""
    o = plugins.load("objectives", "cppo").Config(**options).model_dump()
    assert tokens.response_T is not None
    weights = []
    for i in range(int(tokens.response_T.max()) + 1):
        mine_T = tokens.response_T == i
        pi, mu = (column[mine_T].exp().tolist() for column in tokens[:2])
        adv = tokens.adv_T[mine_T].tolist()
        shifts = [abs(p - m) for p, m in zip(pi, mu, strict=True)]
        budget = o["budget"]
        if o["adaptive_budget"]:
            budget = min(2 * budget, max(budget, percentile(shifts, 0.9)))
        spent = allowed = 0.0
        for t, (p, m, a, shift) in enumerate(zip(pi, mu, adv, shifts, strict=True)):
            v = 1 - (1 - o["weight_floor"]) / max(1, len(shifts) - 1) * t
            threshold = min(o["delta"], o["delta"] + budget * allowed - spent)
            weights.append(float(a * (p / m - 1) <= 0 or v * shift <= threshold))
            spent, allowed = spent + v * shift, allowed + v
    return weights


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("scale", [0.02, 0.15, 0.8])
def test_loss_weight_and_gradient_are_those_of_the_recurrence(
    options: dict[str, Any], scale: float
) -> None:
    masked: list[float] = []
    for seed in range(4):
        tokens = ragged(seed, scale)
        weights = expected(tokens, options)
        seen = run("cppo", options, tokens)
        assert seen.weight_T.tolist() == weights
        ratio_T = (tokens.logp_T - tokens.old_logp_T).exp()
        gradient_T = -tokens.adv_T * ratio_T * torch.tensor(weights, dtype=torch.float64)
        torch.testing.assert_close(seen.grad_T, gradient_T, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(seen.loss_T, gradient_T, rtol=1e-10, atol=1e-10)
        masked.append(weights.count(0.0))
    if scale != 0.15:
        assert (max(masked) > 0) == (scale == 0.8)


@pytest.mark.parametrize("adv", [2.0, -2.0, 0.0])
@pytest.mark.parametrize("options", OPTIONS)
def test_at_the_policy_that_sampled_it_is_the_plain_policy_gradient(
    options: dict[str, Any], adv: float
) -> None:
    tokens = batch([(0.5, 0.5)] * 9, [(0.1, 0.1)], [(0.9, 0.9)] * 4, adv=adv)
    seen, plain = run("cppo", options, tokens), run("none", {}, tokens)
    assert all(torch.equal(a, b) for a, b in zip(seen, plain, strict=True))


@pytest.mark.parametrize("side", [1, -1])
def test_the_threshold_grows_from_delta_to_delta_over_the_floor(side: int) -> None:
    """Each position of a response alone: the tokens around it do not move."""
    delta, floor, length = 0.15, 0.6, 5
    options = {"delta": delta, "weight_floor": floor, **FIXED}
    for t, v in enumerate([1.0, 0.9, 0.8, 0.7, 0.6]):
        for edge, weight in ((1 - NEAR, 1.0), (1 + NEAR, 0.0)):
            row = [(0.5, 0.5)] * length
            row[t] = (0.5, 0.5 + side * delta / v * edge)
            assert run("cppo", options, batch(row, adv=side)).weight_T[t] == weight
            assert run("cppo", options, batch(row, adv=-side)).weight_T[t] == 1


@pytest.mark.parametrize(
    ("moved", "shift"),
    [
        ([0.05], 0.15 + 0.02 - 0.05),
        ([0.01], 0.15),  # less than the budget so far: it does not add to δ
        ([0.02, 0.02], 0.15),
        ([0.04, 0.03, 0.03], 0.15 + 0.06 - 0.10),
        ([0.12, 0.01, 0.01], 0.15 + 0.06 - 0.14),
    ],
)
def test_what_came_before_lowers_the_threshold(moved: list[float], shift: float) -> None:
    options = {"weight_floor": 1.0, **FIXED}
    for edge, weight in ((1 - NEAR, 1.0), (1 + NEAR, 0.0)):
        row = [(0.5, 0.5 + d) for d in [*moved, shift * edge]]
        assert run("cppo", options, batch(row)).weight_T[-1] == weight
        # The direction of what came before does not matter, nor whether it was masked.
        fell = [(0.5, 0.5 - d) for d in moved] + row[-1:]
        assert run("cppo", options, batch(fell)).weight_T[-1] == weight


def test_a_masked_token_still_counts_for_those_after_it() -> None:
    options = {"weight_floor": 1.0, **FIXED}
    row = [(0.4, 0.8), (0.5, 0.51), (0.5, 0.4)]
    assert run("cppo", options, batch(row)).weight_T.tolist() == [0, 0, 1]
    assert run("cppo", options, batch(row[1:])).weight_T.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("moved", "percentile", "threshold"),
    [
        # 11 tokens: the second largest shift, 0.03
        ([0.4, 0.03, *[0.0] * 8], 0.03, 0.15 + 10 * 0.03 - 0.43),
        # 16 tokens: halfway between the third and the second largest, 0.026 and 0.036
        ([0.5, 0.036, 0.026, *[0.00275] * 12], 0.031, 0.15 + 15 * 0.031 - 0.595),
        # the same, but at least 0.02 and at most 0.04
        ([0.29, 0.01, *[0.005] * 8], 0.02, 0.15 + 10 * 0.02 - 0.34),
        ([0.3, 0.2, *[0.0] * 8], 0.04, 0.15 + 10 * 0.04 - 0.5),
    ],
)
def test_an_adaptive_budget_is_the_percentile_between_its_bounds(
    moved: list[float], percentile: float, threshold: float
) -> None:
    """The last token is at the threshold, and, by its size, not what the percentile depends on."""
    for edge, weight in ((1 - 1e-4, 1.0), (1 + 1e-4, 0.0)):
        tokens = batch([(0.3, 0.3 + d) for d in [*moved, threshold * edge]])
        options = {"weight_floor": 1.0, "budget": 0.02}
        assert run("cppo", options, tokens).weight_T[-1] == weight
        fixed = {"weight_floor": 1.0, "budget": percentile, **FIXED}
        assert run("cppo", fixed, tokens).weight_T[-1] == weight


def test_a_response_does_not_influence_another() -> None:
    tokens = ragged(5, 0.3)
    assert tokens.response_T is not None
    whole = run("cppo", {}, tokens)
    for i in range(6):
        mine_T = tokens.response_T == i
        alone = Tokens(*(column[mine_T] for column in tokens[:3] if column is not None))
        for was_T, is_T in zip(whole, run("cppo", {}, alone), strict=True):
            assert torch.equal(was_T[mine_T], is_T)


@pytest.mark.parametrize(("edge", "weight"), [(1 - 1e-3, 1), (1 + 1e-3, 0)])
def test_many_tokens_before_a_response_change_nothing_in_float32(edge: float, weight: int) -> None:
    """Sums over a long micro-batch round to more than that, in float32."""
    row = [(0.5, 0.5 + d) for d in (0.04, 0.03, 0.03, 0.11 * edge)]
    for tokens in (batch(row), batch([(0.05, 0.95)] * 50_000, row)):
        small = Tokens(*(column.float() for column in tokens[:3] if column is not None))
        small = small._replace(response_T=tokens.response_T)
        weight_T = run("cppo", {"weight_floor": 1.0, **FIXED}, small).weight_T
        assert weight_T[-4:].tolist() == [1, 1, 1, weight]


def test_one_token_has_the_mask_of_dppo() -> None:
    pairs = [(m, p) for m in (0.01, 0.3, 0.9) for p in (0.001, 0.1, 0.35, 0.46, 0.8, 0.99)]
    for adv in (1.0, -1.0):
        tokens = batch(*[[pair] for pair in pairs], adv=adv)
        for was_T, is_T in zip(run("dppo", {}, tokens), run("cppo", {}, tokens), strict=True):
            torch.testing.assert_close(was_T, is_T, rtol=1e-12, atol=0)


def test_a_broken_log_prob_has_no_gradient() -> None:
    tokens = batch([(0.5, 0.5)] * 3)
    logp_T = tokens.logp_T.clone()
    logp_T[1] -= 1e6
    seen = run("cppo", {}, tokens._replace(logp_T=logp_T))
    assert seen.weight_T.tolist() == [1, 0, 1] and seen.grad_T[1] == 0
    assert all(values_T.isfinite().all() for values_T in seen)


@pytest.mark.parametrize(
    "options", [{"delta": 0.0}, {"weight_floor": 0.0}, {"weight_floor": 1.1}, {"budget": 0.0}]
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        plugins.load("objectives", "cppo").Config(**options)


def test_it_says_where_its_thresholds_are() -> None:
    plugin = plugins.load("objectives", "cppo")
    assert plugin.regime is not None
    assert "0.15 at the start of a response and 0.1875 at its end" in plugin.regime(plugin.Config())
    assert "more than 0.02 to 0.04 on average" in plugin.regime(plugin.Config())
    assert "more than 0.02 on average" in plugin.regime(plugin.Config(**FIXED))
