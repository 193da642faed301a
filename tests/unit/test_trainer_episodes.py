"""Episodes of several turns in training: only what the policy sampled is learnt from.

Compared with plain transformers over each whole conversation, however it is cut into rows,
micro-batches and updates.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from drpo_cli import plugins
from drpo_cli.experience import Experience
from drpo_cli.plugins import Selected
from drpo_cli.settings import CriticSettings, ReferenceSettings
from drpo_cli.step.advantage import with_advantages
from drpo_cli.types import Group, Rollout
from support.models import Row, tiny_model, world
from support.training import STEADY, ByHand, furthest, gradients_by_hand, open_trainer
from support.turns import grouped, learn, played, scored

HORIZON = 17
DELTA = 0.1
KINDS: list[dict[str, Any]] = [
    {"reduction": "token_mean"},
    {"reduction": "sequence_mean"},
    {"reduction": "fixed_horizon", "horizon": HORIZON},
]
# two prompts with three episodes each, of one to three turns; an observation ends two of them
LENGTHS = [[[3, 2, 4], [2, 5, 1, 3, 6], [7]], [[1, 4, 2, 1], [5, 3, 3, 2, 1, 4], [2, 2, 2]]]
REWARDS = [[[1.0, 0.5], [0.0, 0.0, 2.0], [0.0]], [[0.5, 0.0], [0.0, 1.0, 0.0], [2.0, 2.0]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def chosen(name: str = "group_mean", **options: Any) -> Selected[Any]:
    return Selected("advantages", name, plugins.load("advantages", name).Config(**options))


BY_TURN = chosen(credit="turn", turn_discount=0.5)


def episodes(apart: bool = False) -> list[Group]:
    played_PG = [
        [played(*pair, seed=10 * place + i) for i, pair in enumerate(zip(*both, strict=True))]
        for place, both in enumerate(zip(LENGTHS, REWARDS, strict=True))
    ]
    return grouped(played_PG, apart=apart)


def conversations() -> tuple[list[Row], list[Tensor]]:
    """Each episode as one sequence with its advantages, and which tokens were sampled."""
    groups = episodes()
    with world() as here:
        exp = with_advantages(scored(groups), BY_TURN, None, here)
    columns = zip(
        exp.prompt_ids_S,
        exp.split(exp.token_T),
        exp.split(exp.logp_mu_T),
        exp.split(exp.advantage_T),
        strict=True,
    )
    rows = [
        Row(prompt, tuple(ids.tolist()), tuple(old.tolist()), tuple(adv.tolist()))
        for prompt, ids, old, adv in columns
    ]
    return rows, exp.split(exp.sampled_T)


def token_losses(seen: ByHand, sampled: Tensor) -> Tensor:
    """DRPO's loss (Eq. 8) of the tokens that the policy sampled."""
    mu, adv = torch.tensor(seen.sample.old_logps).exp(), torch.tensor(seen.sample.advantages)
    pi = seen.logp_T.exp()
    return (-adv * pi / mu + adv.abs() * (pi - mu) ** 2 / (2 * DELTA * mu))[sampled]


def reduced(kind: str, losses: list[Tensor]) -> Tensor:
    if kind == "token_mean":
        return torch.cat(losses).mean()
    if kind == "sequence_mean":
        return torch.stack([loss.mean() for loss in losses]).mean()
    return torch.stack([loss.sum() / HORIZON for loss in losses]).mean()


@pytest.mark.parametrize("kind", KINDS, ids=[kind["reduction"] for kind in KINDS])
def test_the_gradient_is_that_of_the_sampled_tokens_by_hand(
    folder: Path, kind: dict[str, Any]
) -> None:
    """Packed and padded, in one row per episode and one per turn, with prompts shared or not."""
    rows, sampled_E = conversations()

    def loss(seen: list[ByHand]) -> Tensor:
        losses = [token_losses(*pair) for pair in zip(seen, sampled_E, strict=True)]
        return reduced(kind["reduction"], losses)

    expected, value = gradients_by_hand(folder, rows, loss)
    norm = float(torch.stack([gradient.norm() for gradient in expected.values()]).norm())
    tokens = sum(int(sampled.sum()) for sampled in sampled_E)
    assert norm > 0.1 and tokens < sum(len(row.response_ids) for row in rows)
    with world() as here:
        for apart in (False, True):
            for layout, budget in (("packed", 1000), ("packed", 30), ("packed", 1), ("padded", 60)):
                (gradients,), metrics, _ = learn(
                    here,
                    folder,
                    [episodes(apart)],
                    BY_TURN,
                    options={"delta": DELTA},
                    layout=layout,
                    tokens_per_microbatch=budget,
                    **kind,
                )
                assert furthest(gradients, expected) < 1e-5 * max(1.0, norm)
                assert metrics["loss"] == pytest.approx(value, rel=1e-4)
                assert metrics["trained_tokens"] == tokens


@pytest.mark.parametrize("kind", ["gemma3", "lfm2"])
def test_observations_are_seen_by_every_kind_of_layer(tmp_path: Path, kind: str) -> None:
    """Sliding windows in packed rows, and convolutions in padded ones."""
    folder = tiny_model(tmp_path, kind)
    rows, sampled_E = conversations()

    def loss(seen: list[ByHand]) -> Tensor:
        losses = [token_losses(*pair) for pair in zip(seen, sampled_E, strict=True)]
        return torch.cat(losses).mean()

    expected, _ = gradients_by_hand(folder, rows, loss)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    with world() as here:
        for apart in (False, True):
            (gradients,), _, _ = learn(
                here,
                folder,
                [episodes(apart)],
                BY_TURN,
                options={"delta": DELTA},
                tokens_per_microbatch=60,
            )
            assert furthest(gradients, expected) < 1e-5 * max(1.0, largest)


def test_a_sequence_level_objective_takes_turns_for_responses(folder: Path) -> None:
    """GSPO by hand: one ratio for each turn, wide clips, and one advantage for each turn."""
    rows, sampled_E = conversations()
    lengths = [one[::2] for lengths_G in LENGTHS for one in lengths_G]

    def loss(seen: list[ByHand]) -> Tensor:
        losses = []
        for one, own, sizes in zip(seen, sampled_E, lengths, strict=True):
            ratios = (one.logp_T - torch.tensor(one.sample.old_logps))[own].split(sizes)
            adv = torch.tensor(one.sample.advantages)[own].split(sizes)
            losses += [-a * r.mean().exp() for a, r in zip(adv, ratios, strict=True)]
        return torch.cat(losses).mean()

    expected, value = gradients_by_hand(folder, rows, loss)
    options = {"epsilon_low": 0.999999, "epsilon_high": 1e9}
    with world() as here:
        for apart in (False, True):
            (gradients,), metrics, _ = learn(
                here, folder, [episodes(apart)], BY_TURN, objective="gspo", options=options
            )
            assert furthest(gradients, expected) < 1e-5 * max(1.0, value)
            assert metrics["loss"] == pytest.approx(value, rel=1e-4)


def kept_by_trm(shift_T: Tensor, log_ratio_T: Tensor, adv_T: Tensor) -> Tensor:
    """One turn: by its largest ½ (log r)²."""
    return (log_ratio_T.square().max() / 2 <= TRM["delta_max"]).expand_as(adv_T)


def kept_by_cppo(shift_T: Tensor, log_ratio_T: Tensor, adv_T: Tensor) -> Tensor:
    """One turn, token by token: Algorithm 1, with one weight for all positions."""
    kept, spent = [], 0.0
    for t, shift in enumerate(shift_T.tolist()):
        threshold = min(CPPO["delta"], CPPO["delta"] + CPPO["budget"] * t - spent)
        kept.append(bool(adv_T[t] * log_ratio_T[t] <= 0) or shift <= threshold)
        spent += shift
    return torch.tensor(kept)


TRM = {"delta_max": 4.0}
CPPO: dict[str, Any] = {
    "delta": 0.02,
    "budget": 0.002,
    "weight_floor": 1.0,
    "adaptive_budget": False,
}
MASKS = {"trm": (TRM, kept_by_trm), "cppo": (CPPO, kept_by_cppo)}


@pytest.mark.parametrize("objective", MASKS)
def test_a_mask_of_responses_sees_the_sampled_tokens_of_a_turn_in_order(
    folder: Path, objective: str
) -> None:
    """Masked by hand, turn by turn; in one row or several, packed in any way, or padded."""
    rows, sampled_E = conversations()
    lengths = [one[::2] for lengths_G in LENGTHS for one in lengths_G]
    options, keeps = MASKS[objective]
    kept: list[bool] = []

    def loss(seen: list[ByHand]) -> Tensor:
        losses = []
        for one, own, sizes in zip(seen, sampled_E, lengths, strict=True):
            mu, adv = torch.tensor(one.sample.old_logps)[own], torch.tensor(one.sample.advantages)
            columns = (one.logp_T[own], mu, adv[own])
            for logp_T, old_logp_T, adv_T in zip(*(c.split(sizes) for c in columns), strict=True):
                log_ratio_T = logp_T - old_logp_T
                shift_T = (logp_T.exp() - old_logp_T.exp()).abs().detach()
                mask_T = keeps(shift_T, log_ratio_T.detach(), adv_T)
                losses.append(-adv_T * log_ratio_T.exp() * mask_T)
                kept.extend(mask_T.tolist())
        return torch.cat(losses).mean()

    expected, value = gradients_by_hand(folder, rows, loss)
    assert 0.1 < sum(kept) / len(kept) < 0.9
    with world() as here:
        for apart in (False, True):
            for layout, budget in (("packed", 1000), ("packed", 30), ("packed", 1), ("padded", 60)):
                (gradients,), metrics, _ = learn(
                    here,
                    folder,
                    [episodes(apart)],
                    BY_TURN,
                    objective=objective,
                    options=options,
                    layout=layout,
                    tokens_per_microbatch=budget,
                )
                assert furthest(gradients, expected) < 1e-5 * max(1.0, abs(value))
                assert metrics["loss"] == pytest.approx(value, rel=1e-4)
                assert metrics["masked_share"] == pytest.approx(1 - sum(kept) / len(kept))


ALL: dict[str, Any] = {
    "reference": ReferenceSettings(coefficient=0.5),
    "anchor": "trainer",
    "importance_cap": 1.5,
    "entropy_bonus": 0.1,
}


@pytest.mark.parametrize("minibatches", ["spread", "groups"])
@pytest.mark.parametrize("kind", KINDS, ids=[kind["reduction"] for kind in KINDS])
def test_an_episode_in_several_rows_is_learnt_from_as_in_one(
    folder: Path, kind: dict[str, Any], minibatches: str
) -> None:
    """Every update, every metric, with all terms of the loss."""
    with world() as here:
        (whole, metrics, _), (parts, again, _) = (
            learn(
                here,
                folder,
                [episodes(apart)],
                BY_TURN,
                updates_per_rollout=2,
                minibatches=minibatches,
                epsilon=STEADY,
                **ALL,
                **kind,
            )
            for apart in (False, True)
        )
    assert len(whole) == len(parts) == 2 and furthest(*whole) > 1e-3
    for one, other in zip(whole, parts, strict=True):
        assert furthest(one, other) < 1e-5
    for found in (metrics, again):  # r = 1 in the first update: rounding says on which side it is
        for name in [name for name in found if "verging" in name]:
            del found[name]
    assert again == pytest.approx(metrics, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("level", ["token", "turn"])
def test_a_critic_learns_the_same_from_several_rows(folder: Path, level: str) -> None:
    with world() as here:
        (_, metrics, whole), (_, again, parts) = (
            learn(
                here,
                folder,
                [episodes(apart)],
                chosen("gae", level=level, discount=0.9),
                critic=CriticSettings(learning_rate=1e-2),
                epsilon=STEADY,
            )
            for apart in (False, True)
        )
    assert furthest(whole, parts) < 1e-5
    assert again == pytest.approx(metrics, rel=1e-4, abs=1e-5)
    assert metrics["value_loss"] > 0.1


@pytest.mark.parametrize("minibatches", ["spread", "groups"])
def test_all_rows_of_an_episode_are_in_one_update(folder: Path, minibatches: str) -> None:
    exp = scored(episodes(apart=True))
    with world() as here:
        trainer = open_trainer(folder, here, updates_per_rollout=3, minibatches=minibatches)
        divided = trainer._divide(exp)
    update_E = divided.update_S[divided.first_E]
    assert divided.update_S.tolist() == update_E[divided.place_in_episodes].tolist()
    assert sorted(update_E.tolist()) == [0, 0, 1, 1, 2, 2]
    assert divided.counted_S[divided.first_E].tolist() == [7, 9, 7, 3, 9, 4]
    assert divided.counted_S.tolist() == exp.sampled_E[exp.place_in_episodes].tolist()


def test_replay_gives_the_log_probs_of_sampled_tokens_and_0_elsewhere(folder: Path) -> None:
    """Also where a row has nothing that was sampled, or nothing at all."""
    rows, sampled_E = conversations()
    seen: list[Tensor] = []

    def loss(all_of: list[ByHand]) -> Tensor:
        seen.extend(one.logp_T.detach() for one in all_of)
        return all_of[0].logp_T.sum()

    gradients_by_hand(folder, rows, loss)
    expected = torch.cat([logp * own for logp, own in zip(seen, sampled_E, strict=True)])
    shown = Rollout((5, 6, 7), (0.0,) * 3, "", False, prompt_ids=(8, 9), sampled=(False,) * 3)
    silent = replace(shown, token_ids=(), logps=(), sampled=())
    groups = episodes()
    more = [replace(groups[0], rollouts_G=(shown, silent)), *groups, *grouped([[silent, silent]])]
    with world() as here:
        trainer = open_trainer(folder, here, tokens_per_microbatch=20)
        found = trainer.replay(Experience.of(more))
        assert found[:3].tolist() == [0.0] * 3
        torch.testing.assert_close(found[3:], expected, atol=1e-5, rtol=0)
        assert len(trainer.replay(Experience.of(more[-1:]))) == 0


def test_the_divergence_is_over_sampled_tokens(folder: Path) -> None:
    """By hand, at μ: the mean of e^−d + d − 1 with d = log μ − log π."""
    rows, sampled_E = conversations()
    sums: list[Tensor] = []

    def loss(seen: list[ByHand]) -> Tensor:
        for one, own in zip(seen, sampled_E, strict=True):
            d = (torch.tensor(one.sample.old_logps) - one.logp_T.detach())[own]
            sums.append((-d).exp() + d - 1)
        return seen[0].logp_T.sum()

    gradients_by_hand(folder, rows, loss)
    with world() as here:
        _, metrics, _ = learn(here, folder, [episodes()], BY_TURN, reference=ReferenceSettings())
    assert metrics["reference_kl"] == pytest.approx(float(torch.cat(sums).mean()), rel=1e-4)


def test_an_episode_that_is_left_out_leaves_all_its_rows_out(folder: Path) -> None:
    exp = scored(episodes(apart=True), skipped=frozenset({1}))
    with world() as here:
        trainer = open_trainer(folder, here)
        metrics = trainer.step(with_advantages(exp, BY_TURN, None, here))
    assert metrics["trained_tokens"] == 7 + 7 + 3 + 4 and math.isfinite(metrics["loss"])
