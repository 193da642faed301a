"""A critic's part of a checkpoint: bit for bit, and never of another spec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from drpo_cli.errors import UserError
from drpo_cli.settings import CriticSettings
from drpo_cli.step.checkpoint import Checkpoints, export
from drpo_cli.trainer.trainer import Trainer
from support.models import experience, samples, tiny_model, tokenizer, world
from support.training import critic_state, furthest, moments, open_trainer, valued, weights

LENGTHS = [(3, 9), (6, 2), (1, 5), (4, 4)]
FAST = CriticSettings(learning_rate=1e-2)
TRAIN: dict[str, Any] = {"updates_per_rollout": 2, "schedule": "cosine", "warmup_updates": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def steps(trainer: Trainer, first: int, last: int) -> list[dict[str, float]]:
    return [
        trainer.step(experience(valued(samples(LENGTHS, i), i))) for i in range(first, last + 1)
    ]


def saved(folder: Path, trainer: Trainer, step: int) -> Path:
    store = Checkpoints(folder, 3, trainer.world)
    return store.save(step, trainer, tokenizer(), {"dtype": "float32"})


@pytest.mark.parametrize(("warmup", "offload"), [(0, "none"), (0, "optimizer"), (3, "optimizer")])
def test_a_resumed_trainer_goes_on_bit_for_bit(
    folder: Path, tmp_path: Path, warmup: int, offload: str
) -> None:
    """With a warm-up of 3, the checkpoint falls into it: the policy has no moments yet."""
    settings = CriticSettings(learning_rate=1e-3, warmup_steps=warmup)
    with world() as here:
        straight = open_trainer(folder, here, critic=settings, offload=offload, **TRAIN)
        steps(straight, 1, 2)
        checkpoint = saved(tmp_path, straight, 2)
        then = critic_state(straight)
        expected = steps(straight, 3, 4)
        resumed = open_trainer(folder, here, critic=settings, **TRAIN)
        Checkpoints(tmp_path, 3, here).load(checkpoint, resumed)
        assert furthest(then, critic_state(resumed)) == 0
        assert repr(steps(resumed, 3, 4)) == repr(expected)
        for read in (lambda trainer: weights(trainer.policy), moments, critic_state):
            assert furthest(read(straight), read(resumed)) == 0
        assert furthest(then, critic_state(resumed)) > 0


def test_a_critics_learning_rate_changed_in_the_spec_counts_on_resuming(
    folder: Path, tmp_path: Path
) -> None:
    with world() as here:
        checkpoint = saved(tmp_path, open_trainer(folder, here, critic=FAST), 1)
        resumed = open_trainer(folder, here, critic=CriticSettings(learning_rate=1e-6))
        Checkpoints(tmp_path, 3, here).load(checkpoint, resumed)
    assert resumed.critic is not None
    assert resumed.critic.optimizer.param_groups[0]["lr"] == 1e-6


def test_a_checkpoint_with_a_critic_and_a_spec_without_one(folder: Path, tmp_path: Path) -> None:
    with world() as here:
        store = Checkpoints(tmp_path / "a", 3, here)
        plain, valuing = (open_trainer(folder, here, critic=c) for c in (None, FAST))
        with_critic, without = saved(tmp_path / "a", valuing, 1), saved(tmp_path / "b", plain, 1)
        before = weights(plain.policy)
        with pytest.raises(UserError, match=r"has a critic, unlike this spec; add the \[critic\]"):
            store.load(with_critic, plain)
        with pytest.raises(UserError, match=r"has no critic, unlike .* take out the \[critic\]"):
            store.load(without, valuing)
        assert furthest(before, weights(plain.policy)) == 0


def test_a_checkpoint_with_a_critic_of_another_model(folder: Path, tmp_path: Path) -> None:
    small = tiny_model(tmp_path / "small", num_hidden_layers=1)
    narrow = tiny_model(tmp_path / "narrow", hidden_size=64)
    with world() as here:
        checkpoint = saved(tmp_path / "c", open_trainer(folder, here, critic=FAST), 1)
        for path in (small, narrow):
            other = FAST.model_copy(update={"path": str(path)})
            trainer = open_trainer(folder, here, critic=other)
            with pytest.raises(UserError, match=r"critic of another model .*critic\.path"):
                Checkpoints(tmp_path / "c", 3, here).load(checkpoint, trainer)


def test_an_export_is_the_policy_alone(folder: Path, tmp_path: Path) -> None:
    with world() as here:
        trainer = open_trainer(folder, here, critic=FAST)
        steps(trainer, 1, 1)
        export(saved(tmp_path / "c", trainer, 1), tmp_path / "exported")
        trained = weights(trainer.policy)
    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    assert furthest(dict(lm.named_parameters()), trained) == 0
