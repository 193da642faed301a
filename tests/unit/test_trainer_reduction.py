"""Each reduction against plain transformers, and what becomes of an update without tokens."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from drpo_cli.settings import TrainSettings
from drpo_cli.trainer.reduction import scales
from support.models import experience, samples, tiny_model, world
from support.training import (
    STEADY,
    ByHand,
    caught_gradients,
    flat,
    furthest,
    gradients_by_hand,
    moments,
    open_trainer,
    weights,
)

LENGTHS = [(3, 9), (6, 2), (1, 5), (4, 4), (2, 12), (5, 1), (3, 3), (8, 7)]
HORIZON = 17
DELTA = 0.1
KINDS: list[dict[str, Any]] = [
    {"reduction": "token_mean"},
    {"reduction": "sequence_mean"},
    {"reduction": "fixed_horizon", "horizon": HORIZON},
]
each = pytest.mark.parametrize("kind", KINDS, ids=[kind["reduction"] for kind in KINDS])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def drpo(seen: ByHand) -> Tensor:
    """DRPO's loss of each token (Eq. 8)."""
    mu, adv = torch.tensor(seen.sample.old_logps).exp(), torch.tensor(seen.sample.advantages)
    pi = seen.logp_T.exp()
    return -adv * pi / mu + adv.abs() * (pi - mu) ** 2 / (2 * DELTA * mu)


def reduced(kind: str, seen: list[ByHand]) -> Tensor:
    losses = [drpo(each) for each in seen]
    if kind == "token_mean":
        return torch.cat(losses).mean()
    if kind == "sequence_mean":
        return torch.stack([loss.mean() for loss in losses]).mean()
    return torch.stack([loss.sum() / HORIZON for loss in losses]).mean()


@each
def test_the_gradient_is_that_of_the_loss_by_hand(folder: Path, kind: dict[str, Any]) -> None:
    batch = samples(LENGTHS)
    expected, loss = gradients_by_hand(folder, batch, lambda seen: reduced(kind["reduction"], seen))
    norm = float(torch.stack([gradient.norm() for gradient in expected.values()]).norm())
    with world() as here:
        trainer = open_trainer(
            folder,
            here,
            options={"delta": DELTA},
            max_gradient_norm=1e9,
            tokens_per_microbatch=20,
            **kind,
        )
        with caught_gradients(trainer) as gradients:
            metrics = flat(trainer.step(experience(batch)))
    assert furthest(gradients[0], expected) < 1e-5 * max(1.0, norm)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_the_three_weigh_responses_differently(folder: Path) -> None:
    batch, settings = samples([(2, 1), (2, 3)]), [TrainSettings(**kind) for kind in KINDS]
    exp = experience(batch)
    exp = replace(exp, counted_S=exp.loss_tokens_S)
    with world() as here:
        found = [scales(exp, setting, here) for setting in settings]
    assert found == [[1 / 4, 1 / 4], [1 / 2, 1 / 6], [1 / (2 * HORIZON)] * 2]


@each
def test_one_microbatch_of_eight_is_eight_of_one(folder: Path, kind: dict[str, Any]) -> None:
    batch = samples(LENGTHS)
    with world() as here:
        found = []
        for budget in (1000, 14, 1):
            trainer = open_trainer(
                folder, here, tokens_per_microbatch=budget, epsilon=STEADY, **kind
            )
            with caught_gradients(trainer) as gradients:
                metrics = flat(trainer.step(experience(batch)))
            found.append((gradients[0], weights(trainer.policy), metrics))
    whole = found[0]
    for cut in found[1:]:
        assert furthest(cut[0], whole[0]) < 1e-6 and furthest(cut[1], whole[1]) < 1e-6
        assert cut[2] == pytest.approx(whole[2], rel=1e-5, abs=1e-6)


@each
def test_responses_that_are_left_out_count_for_nothing(folder: Path, kind: dict[str, Any]) -> None:
    batch = samples(LENGTHS)
    masked = [replace(sample, kept=i % 3 != 0) for i, sample in enumerate(batch)]
    with world() as here:
        found = []
        for part in (masked, [sample for sample in masked if sample.kept]):
            trainer = open_trainer(folder, here, **kind)
            with caught_gradients(trainer) as gradients:
                metrics = flat(trainer.step(experience(part)))
            found.append((gradients[0], metrics))
    (some, left), (alone, right) = found
    assert furthest(some, alone) < 1e-6
    assert left == pytest.approx(right, rel=1e-5, abs=1e-6)


@each
def test_an_update_without_a_token_is_skipped(folder: Path, kind: dict[str, Any]) -> None:
    """Every response truncated, and truncated ones left out."""
    batch = samples(LENGTHS)
    nothing = [replace(sample, kept=False) for sample in batch]
    half = [replace(sample, kept=i % 2 == 1) for i, sample in enumerate(batch)]
    with world() as here:
        trainer = open_trainer(folder, here, updates_per_rollout=2, **kind)
        trainer.step(experience(batch))
        before, moved = weights(trainer.policy), moments(trainer)
        metrics = flat(trainer.step(experience(nothing)))
        assert furthest(before, weights(trainer.policy)) == 0
        assert furthest(moved, moments(trainer)) == 0
        assert metrics["skipped_updates"] == 2 and metrics["trained_tokens"] == 0
        assert math.isnan(metrics["loss"]) and math.isnan(metrics["grad_norm"])
        assert trainer.schedule.last_epoch == 4
        metrics = flat(trainer.step(experience(half)))
        assert metrics["skipped_updates"] == 1
        assert metrics["trained_tokens"] == sum(response for _, response in LENGTHS[1::2])
        after = weights(trainer.policy)
    assert furthest(before, after) > 1e-4
    assert all(bool(weight.isfinite().all()) for weight in after.values())
