"""GSPO: one ratio for all tokens of a response, and none of another response's."""

import math

import pytest
import torch
from torch import Tensor

from drpo_cli.types import Tokens
from support.objectives import run, take

OPTIONS = {"epsilon_low": 0.05, "epsilon_high": 0.08}
ADVANTAGE = (1.0, -2.0, 0.5, -0.5, 0.0, 3.0, -1.0, 1.0)  # of each response
DRIFT = (0.3, -0.3, -0.3, 0.3, 0.3, 0.02, -0.02, 0.0)  # mean log r of a response, about
OUTSIDE = {0, 1}  # the responses that diverged beyond the range


def batch(noise: float = 0.5) -> Tokens:
    """Eight responses of 3 to 24 tokens, their tokens shuffled; log r spreads by `noise`."""
    generator = torch.Generator().manual_seed(1)
    response_T = torch.repeat_interleave(torch.arange(8), torch.arange(3, 27, 3))
    response_T = response_T[torch.randperm(len(response_T), generator=generator)]
    spread_T = noise * torch.randn(len(response_T), generator=generator, dtype=torch.float64)
    mean_T = torch.stack([spread_T[response_T == i].mean() for i in range(8)])[response_T]
    log_ratio_T = spread_T - mean_T + torch.tensor(DRIFT, dtype=torch.float64)[response_T]
    old_logp_T = -4 - 3 * torch.rand(len(response_T), generator=generator, dtype=torch.float64)
    adv_T = torch.tensor(ADVANTAGE, dtype=torch.float64)[response_T]
    return Tokens(old_logp_T + log_ratio_T, old_logp_T, adv_T, response_T)


def rows(tokens: Tokens) -> list[tuple[float, float, float, int]]:
    """log π, log μ, A and the number of the response of each token, in plain numbers."""
    return list(zip(*(column.tolist() for column in tokens if column is not None), strict=True))


def log_ratios(tokens: Tokens, response: int) -> list[float]:
    """Clamped log r of a response's tokens, in plain floats."""
    return [max(-20.0, min(20.0, logp - old)) for logp, old, _, i in rows(tokens) if i == response]


def expected(tokens: Tokens) -> tuple[list[float], list[float]]:
    """Loss and weight of each token, in plain floats."""
    losses, weights = [], []
    for logp, old, adv, i in rows(tokens):
        own = log_ratios(tokens, i)
        s = math.exp(math.fsum(own) / len(own))
        losses.append(max(-adv * s, -adv * max(0.95, min(1.08, s))))
        dropped = (adv > 0 and s > 1.08) or (adv < 0 and s < 0.95) or abs(logp - old) > 20
        weights.append(0.0 if dropped else s / math.exp(logp - old))
    return losses, weights


def with_log_ratio(tokens: Tokens, at: int, log_ratio: float) -> Tokens:
    logp_T = tokens.logp_T.clone()
    logp_T[at] = tokens.old_logp_T[at] + log_ratio
    return tokens._replace(logp_T=logp_T)


@pytest.mark.parametrize("log_ratio", [0.0, 20.0, -20.0, 30.0, -30.0])
def test_loss_weight_and_gradient_are_the_formula(log_ratio: float) -> None:
    tokens = with_log_ratio(batch(), 5, log_ratio)
    loss_T, grad_T, weight_T = run("gspo", OPTIONS, tokens)
    losses, weights = expected(tokens)
    assert loss_T.tolist() == pytest.approx(losses, rel=1e-10, abs=1e-10)
    assert weight_T.tolist() == pytest.approx(weights, rel=1e-10, abs=1e-10)
    ratio_T = (tokens.logp_T - tokens.old_logp_T).clamp(-20, 20).exp()
    gradient_T = -tokens.adv_T * ratio_T * torch.tensor(weights, dtype=torch.float64)
    torch.testing.assert_close(grad_T, gradient_T, rtol=1e-10, atol=1e-10)


def test_tokens_of_a_response_are_kept_or_dropped_together() -> None:
    tokens = batch()
    assert tokens.response_T is not None
    loss_T, grad_T, weight_T = run("gspo", OPTIONS, tokens)
    for response in range(8):
        mine_T = tokens.response_T == response
        assert (weight_T[mine_T] == 0).all().item() == (response in OUTSIDE)
        assert (weight_T[mine_T] == 0).any().item() == (response in OUTSIDE)
        for values_T in (loss_T[mine_T], grad_T[mine_T]):
            torch.testing.assert_close(
                values_T, values_T[:1].expand_as(values_T), rtol=1e-12, atol=0
            )


@pytest.mark.parametrize("log_ratio", [3.0, -30.0])
def test_a_response_does_not_influence_another(log_ratio: float) -> None:
    tokens = batch()
    assert tokens.response_T is not None
    others_T = tokens.response_T != tokens.response_T[5]
    before, after = (
        run("gspo", OPTIONS, t) for t in (tokens, with_log_ratio(tokens, 5, log_ratio))
    )
    for was_T, is_T in zip(before, after, strict=True):
        assert torch.equal(was_T[others_T], is_T[others_T])
    assert not torch.equal(before.loss_T[~others_T], after.loss_T[~others_T])


def test_the_order_of_tokens_does_not_matter() -> None:
    tokens = batch()
    order_N = torch.randperm(len(tokens.logp_T), generator=torch.Generator().manual_seed(2))
    straight, shuffled = (run("gspo", OPTIONS, t) for t in (tokens, take(tokens, order_N)))
    for was_T, is_T in zip(straight, shuffled, strict=True):
        torch.testing.assert_close(was_T[order_N], is_T, rtol=1e-12, atol=1e-12)


def test_without_numbers_all_tokens_are_one_response() -> None:
    tokens = batch(noise=0.1)
    same = tokens._replace(adv_T=torch.ones_like(tokens.adv_T))
    zeros_T = torch.zeros(len(same.logp_T), dtype=torch.int64)
    unnamed, named = (
        run("gspo", OPTIONS, same._replace(response_T=response_T)) for response_T in (None, zeros_T)
    )
    for was_T, is_T in zip(named, unnamed, strict=True):
        torch.testing.assert_close(was_T, is_T, rtol=1e-12, atol=1e-12)


def sequence_form(tokens: Tokens, logp_T: Tensor) -> Tensor:
    """Eq. 5 of the paper: one clipped surrogate per response, summed over responses."""
    assert tokens.response_T is not None
    total = torch.zeros((), dtype=torch.float64)
    for i in range(8):
        mine_T = tokens.response_T == i
        s = (logp_T - tokens.old_logp_T)[mine_T].mean().exp()
        total = total - torch.minimum(s * ADVANTAGE[i], s.clamp(0.95, 1.08) * ADVANTAGE[i])
    return total


def test_the_mean_over_tokens_has_the_gradient_of_the_sequence_form() -> None:
    tokens = batch()
    assert tokens.response_T is not None
    logp_T = tokens.logp_T.clone().requires_grad_()
    (gradient_T,) = torch.autograd.grad(sequence_form(tokens, logp_T), logp_T)
    length_T = tokens.response_T.bincount()[tokens.response_T]
    token_T = run("gspo", OPTIONS, tokens).grad_T / length_T
    torch.testing.assert_close(token_T, gradient_T, rtol=1e-10, atol=1e-12)


def test_a_broken_log_prob_has_no_gradient_and_moves_its_response_by_a_bounded_factor() -> None:
    tokens = batch()
    broken = with_log_ratio(tokens, 5, -1e6)
    assert broken.response_T is not None
    seen = run("gspo", {"epsilon_low": 0.99, "epsilon_high": 1e9}, broken)
    assert all(values_T.isfinite().all() for values_T in seen)
    assert seen.grad_T[5] == 0 and seen.weight_T[5] == 0
    response = int(broken.response_T[5])
    s = (seen.loss_T / -broken.adv_T)[5].item()
    others = log_ratios(broken, response)
    others.remove(-20.0)
    held = math.exp((math.fsum(others) - 20) / (len(others) + 1))
    assert s == pytest.approx(max(held, 0.01), rel=1e-10)
