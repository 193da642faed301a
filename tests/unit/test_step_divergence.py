"""The divergence from a reference as a part of the reward, before any baseline."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from drpo_cli import plugins
from drpo_cli.experience import Experience
from drpo_cli.plugins import Selected
from drpo_cli.settings import ReferenceSettings
from drpo_cli.step.advantage import with_advantages
from drpo_cli.step.credit import Turns
from drpo_cli.step.divergence import with_divergence
from drpo_cli.types import Group, Prompt, Rollout, Scores
from support.models import world
from support.turns import grouped, played, turn_rewards

BETA = 0.7
SYMBOLS = 3
REWARDS = torch.tensor([[1.0, 0.0, 2.0], [0.5, 0.25, 0.0], [0.0, 1.5, 1.0]], dtype=torch.float64)


def trainer_with(ref_logp_T: Tensor, kl: Any = "k1") -> Any:
    """A trainer whose reference gives these log-probs."""
    reference = SimpleNamespace(settings=ReferenceSettings(kl=kl, coefficient=BETA))

    def replay_once(exp: Experience) -> Experience:
        return replace(exp, ref_logp_T=ref_logp_T.float())

    return SimpleNamespace(reference=reference, replay_once=replay_once)


def log_probs(first_V: Tensor, then_VV: Tensor) -> dict[tuple[int, int], Tensor]:
    """log π of both tokens of each of the responses of two tokens, [2]."""
    first_V, then_VV = first_V.log_softmax(-1), then_VV.log_softmax(-1)
    pairs = product(range(SYMBOLS), repeat=2)
    return {(a, b): torch.stack([first_V[a], then_VV[a, b]]) for a, b in pairs}


@pytest.mark.parametrize("baseline", ["rloo", "constant"])
def test_the_mean_gradient_is_that_of_reward_minus_divergence(baseline: str) -> None:
    """Over all groups of two responses of two tokens, each with its probability.

    Taken off the advantage of its own token, the divergence would have a wrong gradient on the
    first token, which also decides how far the second one is from the reference.
    """
    generator = torch.Generator().manual_seed(0)
    parts = [(SYMBOLS,), (SYMBOLS, SYMBOLS)]
    ours, reference = (
        [torch.randn(part, generator=generator, dtype=torch.float64) for part in parts]
        for _ in "ab"
    )
    for logits in ours:
        logits.requires_grad_()
    logp, ref_logp = log_probs(*ours), log_probs(*reference)
    exact = sum(
        (logp[y].sum().exp() * (REWARDS[y] - BETA * (logp[y] - ref_logp[y]).sum()) for y in logp),
        start=torch.zeros(()),
    )
    expected = torch.autograd.grad(exact, ours, retain_graph=True)

    pairs = list(product(logp, repeat=2))
    exp = Experience.of(
        [
            Group(
                Prompt(str(place), "", (9,), None, {}),
                tuple(Rollout(y, tuple(logp[y].tolist()), "", False) for y in pair),
            )
            for place, pair in enumerate(pairs)
        ],
        [Scores(tuple(float(REWARDS[y]) for y in pair), {}) for pair in pairs],
    )
    ref_logp_T = torch.cat([ref_logp[y] for pair in pairs for y in pair])
    shaped = with_divergence(exp, trainer_with(ref_logp_T))
    if baseline == "constant":
        adv_T = shaped.repeat(shaped.score_S - 0.5)
    else:
        chosen = Selected("advantages", baseline, plugins.load("advantages", baseline).Config())
        with world() as here:
            adv_T = with_advantages(shaped, chosen, None, here).advantage_T
    chance_P = torch.stack([torch.cat([logp[y] for y in pair]).sum().exp() for pair in pairs])
    logp_T = torch.cat([logp[y] for pair in pairs for y in pair])
    weight_T = chance_P.detach().repeat_interleave(4) / 2
    found = torch.autograd.grad((weight_T * adv_T * logp_T).sum(), ours)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


@pytest.mark.parametrize("apart", [False, True])
def test_each_turn_is_charged_for_its_own_tokens(apart: bool) -> None:
    groups = grouped([[played([2, 2, 1, 1, 3], [1.0, 0.0, 2.0], 1)]], apart=apart)
    scores = [
        Scores(tuple(map(sum, turn_rewards(group))), {}, frozenset(), turn_rewards(group))
        for group in groups
    ]
    exp = Experience.of(groups, scores)
    own = torch.tensor([0.5, -0.25, 1.0, 0.0, 0.125, 0.125], dtype=torch.float64)
    d_T = torch.full_like(exp.logp_mu_T, 99.0).masked_scatter(exp.sampled_T, own)
    shaped = with_divergence(exp, trainer_with(exp.logp_mu_T - d_T))
    before, after = Turns.of(exp).reward_U, Turns.of(shaped).reward_U
    assert before.tolist() == [1, 0, 2]
    charged = [BETA * x for x in (0.25, 1.0, 0.25)]
    assert (before - after).tolist() == pytest.approx(charged, abs=1e-5)
    assert (exp.score_S - shaped.score_S).tolist() == pytest.approx(
        [sum(charged)] * len(exp), abs=1e-5
    )
    assert not bool(shaped.reward_T[~exp.sampled_T].any())


def test_tokens_without_a_ratio_are_not_charged() -> None:
    rollouts = (Rollout((1, 2), (-1.0, float("-inf")), "", False), Rollout((), (), "", False))
    exp = Experience.of([Group(Prompt("a", "", (9,), None, {}), rollouts)])
    shaped = with_divergence(exp, trainer_with(torch.tensor([-2.0, -2.0])))
    assert shaped.score_S.tolist() == pytest.approx([-BETA, 0.0])


@pytest.mark.parametrize("kl", ["k2", "k3"])
def test_what_is_a_term_of_the_loss_is_no_reward(kl: str) -> None:
    exp = Experience.of(
        [Group(Prompt("a", "", (9,), None, {}), (Rollout((1,), (-1.0,), "", False),))]
    )
    assert with_divergence(exp, trainer_with(torch.tensor([-3.0]), kl)) is exp
    assert with_divergence(exp, SimpleNamespace(reference=None)) is exp  # type: ignore[arg-type]
