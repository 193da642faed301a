"""Tokens that reach the extremes, and an objective run on them in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from drpo_cli import plugins
from drpo_cli.types import Tokens

MU = [1e-30, 1e-9, 1e-6, 1e-3, 0.05, 0.3, 0.5, 0.9, 1 - 1e-6, 1 - 1e-9]
FALLS = [-25.0, -20.0, -5.0, -0.5, -0.1, -2e-4, -1e-6]
RISES = [0.0, 1e-9, 2e-4, 1e-3, 0.1, 0.5, 3.0, 19.5, 20.0, 21.0]
ADVANTAGE = [-3.0, -0.5, 0.0, 0.5, 1.0]


class Seen(NamedTuple):
    """Loss, gradient and weight that an objective gives some tokens, each of shape [T]."""

    loss_T: Tensor
    grad_T: Tensor
    weight_T: Tensor


def singles(rows: Sequence[tuple[float, float, float]]) -> Tokens:
    """Tokens of (log π, log μ, A) in float64, each a response of its own."""
    logp_T, old_logp_T, adv_T = torch.tensor(rows, dtype=torch.float64).T.clone()
    return Tokens(logp_T, old_logp_T, adv_T, torch.arange(len(rows)))


def grid() -> Tokens:
    """All of MU × log r × A with π ≤ 1, and tokens at exactly ±20, beyond, and at π = μ = 1."""
    rows = [
        (math.log(mu) + shift, math.log(mu), adv)
        for mu, shift, adv in itertools.product(MU, FALLS + RISES, ADVANTAGE)
        if math.log(mu) + shift <= 0
    ]
    exact = [(0.0, -20.0), (-20.0, 0.0), (-1.0, -21.0), (0.0, 0.0), (0.0, -60.0), (-60.0, 0.0)]
    return singles(rows + [(*pair, adv) for pair, adv in itertools.product(exact, ADVANTAGE)])


def take(tokens: Tokens, index_N: Tensor) -> Tokens:
    """Some of the tokens, in the order given; each keeps the number of its response."""
    assert tokens.response_T is not None
    return Tokens(*(column[index_N] for column in tokens if column is not None))


def run(name: str, options: dict[str, Any], tokens: Tokens) -> Seen:
    """Loss, autograd's ∂loss/∂log π, and the objective's own weight."""
    plugin = plugins.load("objectives", name)
    logp_T = tokens.logp_T.clone().requires_grad_()
    result = plugin.entry(plugin.Config(**options), tokens._replace(logp_T=logp_T))
    (grad_T,) = torch.autograd.grad(result.per_token_T.sum(), logp_T)
    return Seen(result.per_token_T.detach(), grad_T, result.metrics["weight"])


def weights_at(
    name: str, options: dict[str, Any], mu: float, pi: Sequence[float], adv: float
) -> list[float]:
    """w of tokens that share μ and A, for several π."""
    rows = [(math.log(p), math.log(mu), adv) for p in pi]
    return run(name, options, singles(rows)).weight_T.tolist()
