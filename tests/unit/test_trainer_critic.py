"""The critic: its loss by hand, its measures and its warm-up."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from drpo_cli.dist import World, full
from drpo_cli.settings import CriticSettings
from drpo_cli.trainer.critic import Critic, value_loss, whiten
from drpo_cli.trainer.trainer import Trainer
from support.models import Row, experience, samples, tiny_model, world
from support.training import critic_state, furthest, open_trainer, valued, weights

LENGTHS = [(3, 9), (6, 2), (1, 5), (4, 4), (2, 12), (5, 1)]
CLIP = 0.2
FAST = CriticSettings(learning_rate=1e-2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def critic_of(trainer: Trainer) -> Critic:
    assert trainer.critic is not None
    return trainer.critic


def open_critic(folder: Path, here: World, settings: CriticSettings = FAST, **train: Any) -> Critic:
    return critic_of(open_trainer(folder, here, critic=settings, **train))


def steps(trainer: Trainer, first: int, last: int) -> list[dict[str, float]]:
    return [
        trainer.step(experience(valued(samples(LENGTHS, i), i))) for i in range(first, last + 1)
    ]


class Plain(nn.Module):
    """The value model in plain transformers, with the weights of a sharded one."""

    def __init__(self, folder: Path, critic: Critic) -> None:
        super().__init__()
        lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.decoder = lm.get_decoder()
        self.head = nn.Linear(lm.config.hidden_size, 1)
        named = critic.model.named_parameters()
        self.load_state_dict({name: full(weight) for name, weight in named})

    def forward(self, sample: Row) -> Tensor:
        ids = torch.tensor([sample.prompt_ids + sample.response_ids])
        hidden_TD = self.decoder(input_ids=ids).last_hidden_state[0]
        value_T: Tensor = self.head(hidden_TD[len(sample.prompt_ids) - 1 : -1])[:, 0]
        return value_T


def test_the_loss_is_half_the_squared_error() -> None:
    value_T = torch.tensor([0.0, 1.0, -2.0], requires_grad=True)
    loss_T = value_loss(value_T, torch.zeros(3), torch.tensor([1.0, 1.0, 1.0]), clip=0)
    assert loss_T.tolist() == [0.5, 0.0, 4.5]
    (slope_T,) = torch.autograd.grad(loss_T.sum(), value_T)
    assert slope_T.tolist() == [-1.0, 0.0, -3.0]


@pytest.mark.parametrize(
    ("value", "loss", "slope"),
    [
        pytest.param(0.1, 0.9**2 / 2, -0.9, id="within"),
        pytest.param(-0.1, 1.1**2 / 2, -1.1, id="within, the wrong way"),
        pytest.param(0.3, 0.8**2 / 2, 0.0, id="beyond, towards the return"),
        pytest.param(-0.3, 1.3**2 / 2, -1.3, id="beyond, away from it: pulled back"),
        pytest.param(1.9, 0.9**2 / 2, 0.9, id="far past it: pulled back"),
    ],
)
def test_a_value_that_moved_far_has_no_gradient_that_moves_it_on(
    value: float, loss: float, slope: float
) -> None:
    value_T = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    one_T = torch.ones(1, dtype=torch.float64)
    loss_T = value_loss(value_T, 0 * one_T, one_T, CLIP)
    (slope_T,) = torch.autograd.grad(loss_T.sum(), value_T)
    assert (loss_T.item(), slope_T.item()) == pytest.approx((loss, slope))


@pytest.mark.parametrize("clip", [0.0, CLIP])
def test_the_gradient_is_that_of_the_loss_by_hand(folder: Path, clip: float) -> None:
    batch = valued(samples(LENGTHS))
    with world() as here:
        settings = FAST.model_copy(update={"value_clip": clip})
        critic = open_critic(
            folder, here, settings, max_gradient_norm=1e9, tokens_per_microbatch=20
        )
        for seed in range(3):
            critic.update(experience(valued(samples(LENGTHS, seed), seed)))
        plain = Plain(folder, critic)
        seen: dict[str, Tensor] = {}
        named = list(critic.model.named_parameters())
        critic.optimizer.register_step_pre_hook(
            lambda *_: seen.update(
                {name: full(w.grad).clone() for name, w in named if w.grad is not None}
            )
        )
        values = critic.values(experience(batch))
        loss = critic.update(experience(batch))
    value_T = [plain(sample) for sample in batch]
    assert values.tolist() == pytest.approx(torch.cat(value_T).tolist(), abs=1e-5)
    squares = []
    for sample, v_T in zip(batch, value_T, strict=True):
        old_T, return_T = torch.tensor(sample.values), torch.tensor(sample.returns)
        near_T = torch.clamp(v_T, old_T - clip, old_T + clip) if clip else v_T
        squares.append(torch.maximum((v_T - return_T) ** 2, (near_T - return_T) ** 2))
    expected = torch.cat(squares).mean() / 2
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    by_hand = {n: w.grad for n, w in plain.named_parameters() if w.grad is not None}
    assert furthest(seen, by_hand) < 1e-5 < 1e-2 < float(seen["head.weight"].abs().max())


def test_a_new_critic_says_0_everywhere(folder: Path) -> None:
    with world() as here:
        values = open_critic(folder, here).values(experience(samples(LENGTHS)))
    assert values.tolist() == [0.0] * sum(response for _, response in LENGTHS)


def test_it_learns_a_constant_return(folder: Path) -> None:
    exp = experience(samples(LENGTHS))
    losses = []
    with world() as here:
        critic = open_critic(folder, here)
        for _ in range(30):
            value_T = critic.values(exp)
            return_T = torch.full_like(value_T, 0.8)
            loss = critic.update(replace(exp, value_T=value_T, return_T=return_T))
            assert loss is not None
            losses.append(loss)
    assert losses[0] == pytest.approx(0.8**2 / 2)
    assert losses[-1] < losses[0] / 20


def test_an_update_without_tokens_or_with_a_broken_return_is_left_out(folder: Path) -> None:
    batch = valued(samples(LENGTHS))
    broken = [*batch[:-1], replace(batch[-1], returns=(math.nan,))]
    with world() as here:
        trainer = open_trainer(folder, here, critic=FAST)
        critic = critic_of(trainer)
        critic.update(experience(batch))
        before, policy = critic_state(trainer), weights(trainer.policy)
        assert critic.update(experience([])) is None and critic.update(experience(broken)) is None
        assert trainer.step(experience(broken))["skipped_updates"] == 1
        assert furthest(before, critic_state(trainer)) == 0
        assert furthest(policy, weights(trainer.policy)) == 0


def explained(here: World, critic: Critic, pairs: Sequence[tuple[float, float]]) -> float:
    """Explained variance of (value, return) pairs, cut into two samples."""
    (first, second) = samples([(2, 2), (2, len(pairs) - 2)])
    values, returns = ([*column] for column in zip(*pairs, strict=True))
    return critic.explained_variance(
        experience(
            [
                replace(first, values=tuple(values[:2]), returns=tuple(returns[:2])),
                replace(second, values=tuple(values[2:]), returns=tuple(returns[2:])),
            ]
        )
    )


def test_explained_variance(folder: Path) -> None:
    returns = [0.0, 1.0, 1.0, 0.5]
    with world() as here:
        critic = open_critic(folder, here)
        assert explained(here, critic, [(r, r) for r in returns]) == 1
        assert explained(here, critic, [(0.3, r) for r in returns]) == pytest.approx(0)
        assert explained(here, critic, [(-r, r) for r in returns]) == pytest.approx(-3)
        assert explained(here, critic, [(r + 5, r) for r in returns]) == pytest.approx(1)
        values = [0.1, 0.7, 0.9, 0.4]
        error = torch.tensor(returns) - torch.tensor(values)
        expected = 1 - error.var() / torch.tensor(returns).var()
        found = explained(here, critic, list(zip(values, returns, strict=True)))
        assert found == pytest.approx(float(expected))


def test_returns_that_are_all_equal_have_no_variance_to_explain(folder: Path) -> None:
    """Equal up to rounding as well: (R − V) + V is not exactly R."""
    values = [0.1 * i / 7 for i in range(9)]
    with world() as here:
        critic = open_critic(folder, here)
        assert math.isnan(explained(here, critic, [(v, 0.7) for v in values]))
        assert math.isnan(explained(here, critic, [(v, (0.7 - v) + v) for v in values]))
        assert math.isnan(critic.explained_variance(experience([])))


def test_whitened_advantages_have_mean_0_and_deviation_1() -> None:
    adv_T = torch.tensor([0.5, 2.0, -1.0, 4.0, 0.25, 0.5], dtype=torch.float64)
    with world() as here:
        found_T = whiten(adv_T, here)
        assert len(whiten(adv_T[:0], here)) == 0
    assert found_T.mean().item() == pytest.approx(0, abs=1e-12)
    assert found_T.std(correction=0).item() == pytest.approx(1, abs=1e-7)
    assert found_T.argsort(stable=True).tolist() == adv_T.argsort(stable=True).tolist()


@pytest.mark.parametrize("value", [0.0, 0.1, -1 / 3, 7e5])
def test_equal_advantages_become_0(value: float) -> None:
    with world() as here:
        found_T = whiten(torch.full((11,), value, dtype=torch.float64), here)
    assert found_T.tolist() == pytest.approx([0.0] * 11, abs=1e-6)


def test_the_policy_waits_while_the_critic_warms_up(folder: Path) -> None:
    with world() as here:
        settings = CriticSettings(learning_rate=1e-3, warmup_steps=2)
        trainer = open_trainer(folder, here, critic=settings, updates_per_rollout=3)
        start, critics = weights(trainer.policy), [critic_state(trainer)]
        left = []
        for step in range(3):
            steps(trainer, step, step)
            left.append(furthest(start, weights(trainer.policy)))
            now = critic_state(trainer)
            critics.append({name: now[name] for name in critics[0]})
    assert left[:2] == [0, 0] and left[2] > 1e-4
    assert all(furthest(*pair) > 1e-4 for pair in itertools.pairwise(critics))


def test_a_step_tells_of_the_critic(folder: Path) -> None:
    batch = valued(samples(LENGTHS))
    with world() as here:
        metrics = open_trainer(folder, here, critic=FAST).step(experience(batch))
        assert open_trainer(folder, here).step(experience(batch)).keys() < metrics.keys()
    error = torch.tensor([r for s in batch for r in s.returns or ()])
    clipped = torch.tensor([v for s in batch for v in s.values or ()])
    near = clipped + (0 - clipped).clamp(-CLIP, CLIP)
    expected = torch.maximum(error**2, (near - error) ** 2).mean() / 2
    assert metrics["value_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert metrics["explained_variance"] < 0
