"""The supervised warm-up: its loss, its gradient, and when it stops."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drpo_cli.experience import Experience
from drpo_cli.settings import ObjectiveSettings
from drpo_cli.step.warm_up import at_temperature_1, likelihood, share_given
from drpo_cli.trainer.trainer import Objective
from support.models import experience, samples, tiny_model, world
from support.training import (
    caught_gradients,
    furthest,
    gradients_by_hand,
    log_probs_by_hand,
    open_trainer,
)

BATCH = samples([(3, 9), (6, 2), (1, 5), (4, 4)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def learned() -> Experience:
    return experience(BATCH)


def test_an_update_follows_the_mean_log_prob_of_the_answers(folder: Path) -> None:
    """At temperature 1, whatever the policy samples with."""
    expected, loss = gradients_by_hand(
        folder, BATCH, lambda seen: -torch.cat([each.logp_T for each in seen]).mean()
    )
    with world() as here:
        learner = open_trainer(folder, here, max_gradient_norm=1e9, tokens_per_microbatch=20)
        learner.objective = Objective(likelihood, ObjectiveSettings())
        learner.policy.head.temperature = 0.5
        with caught_gradients(learner) as gradients, at_temperature_1(learner.policy):
            metrics = learner.step(learned())
        assert learner.policy.head.temperature == 0.5
    norm = float(torch.stack([gradient.norm() for gradient in expected.values()]).norm())
    assert furthest(gradients[0], expected) < 1e-5 * max(1.0, norm)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)


def test_the_share_of_answers_given_is_the_probability_of_whole_ones(folder: Path) -> None:
    expected = [float(logp_T.sum().exp()) for logp_T in log_probs_by_hand(folder, BATCH)]
    with world() as here:
        found = share_given(learned(), open_trainer(folder, here), here)
    assert found == pytest.approx(sum(expected) / len(BATCH), rel=1e-4)
