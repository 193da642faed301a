"""A training step in one process: what it computes does not depend on how the batch is cut."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import save_on_cpu
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from drpo_cli.dist import World, local
from drpo_cli.trainer.trainer import Trainer
from support.models import Row, experience, group, samples, tiny_model, world
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
DELTA = 0.1
NO_CLIP = 1e9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def stepped(
    folder: Path, here: World, batch: list[Row], **train: Any
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]], dict[str, float]]:
    """Weights after one training step, the gradients of each update, and the metrics."""
    trainer = open_trainer(folder, here, options={"delta": DELTA}, **train)
    with caught_gradients(trainer) as gradients:
        metrics = flat(trainer.step(experience(batch)))
    return weights(trainer.policy), gradients, metrics


def test_one_microbatch_of_eight_is_eight_of_one(folder: Path) -> None:
    batch = samples(LENGTHS)
    with world() as here:
        before = weights(open_trainer(folder, here).policy)
        whole, (gradient,), metrics = stepped(
            folder, here, batch, tokens_per_microbatch=1000, epsilon=STEADY
        )
        for budget in (1, 14):
            cut, (other,), again = stepped(
                folder, here, batch, tokens_per_microbatch=budget, epsilon=STEADY
            )
            assert furthest(gradient, other) < 1e-6
            assert furthest(whole, cut) < 1e-6
            assert again == pytest.approx(metrics, rel=1e-5, abs=1e-6)
    assert furthest(before, whole) > 1e-4


def test_on_one_rank_it_is_all_the_same_when_gradients_are_reduced(folder: Path) -> None:
    batch, budget = samples(LENGTHS), {"tokens_per_microbatch": 20}
    with world() as here:
        often, _, _ = stepped(folder, here, batch, **budget)
        once, _, _ = stepped(folder, here, batch, reduce_gradients="per_update", **budget)
    assert furthest(often, once) == 0


def test_samples_that_share_a_prompt_learn_what_they_learn_apart(folder: Path) -> None:
    batch = group(20, [9, 3, 12, 1]) + group(6, [5, 8, 2, 7], seed=1)
    with world() as here:
        whole, (gradient,), metrics = stepped(
            folder, here, batch, tokens_per_microbatch=1000, epsilon=STEADY
        )
        for budget in (1, 30, 44):
            cut, (other,), again = stepped(
                folder, here, batch, tokens_per_microbatch=budget, epsilon=STEADY
            )
            assert furthest(gradient, other) < 1e-6
            assert furthest(whole, cut) < 1e-6
            assert again == pytest.approx(metrics, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("minibatches", "prompts", "updates", "expected"),
    [
        ("groups", 4, 2, [[0, 0, 2, 2], [1, 1, 3, 3]]),
        ("groups", 1, 2, [[0], [0]]),  # a group is cut where there are fewer than updates
        ("groups", 3, 4, [[0, 2], [0, 2], [1], [1]]),
        ("spread", 4, 2, [[0, 1, 2, 3], [0, 1, 2, 3]]),
    ],
)
def test_an_update_has_whole_groups_or_some_of_each(
    folder: Path, minibatches: str, prompts: int, updates: int, expected: list[list[int]]
) -> None:
    batch = [s for seed in range(prompts) for s in group(4, [3, 3], seed)]
    ids = [sample.prompt_ids for sample in batch[::2]]
    with world() as here:
        trainer = open_trainer(folder, here, updates_per_rollout=updates, minibatches=minibatches)
        seen: list[list[int]] = []
        trainer._update = lambda part, stats: seen.append(  # type: ignore[method-assign,assignment]
            [ids.index(prompt_ids) for prompt_ids in part.prompt_ids_S]
        )
        trainer.step(experience(batch))
    assert seen == expected


def hand_written(
    folder: Path, batch: list[Row]
) -> tuple[dict[str, Tensor], float, dict[str, Tensor]]:
    """Gradients and value of DRPO's loss (Eq. 8), mean over tokens; and columns of its tokens."""
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows: dict[str, list[Tensor]] = {"logp": [], "mu": [], "adv": [], "entropy": []}
    for sample in batch:
        ids = torch.tensor([sample.prompt_ids + sample.response_ids])
        logp_TV = lm(ids).logits[0, len(sample.prompt_ids) - 1 : -1].log_softmax(-1)
        target_T = torch.tensor(sample.response_ids)
        rows["logp"].append(logp_TV.gather(-1, target_T[:, None])[:, 0])
        rows["entropy"].append(-(logp_TV.exp() * logp_TV).sum(-1).detach())
        rows["mu"].append(torch.tensor(sample.old_logps).exp())
        rows["adv"].append(torch.tensor(sample.advantages))
    seen = {name: torch.cat(parts) for name, parts in rows.items()}
    pi, mu, adv = seen["logp"].exp(), seen["mu"], seen["adv"]
    loss = (-adv * pi / mu + adv.abs() * (pi - mu) ** 2 / (2 * DELTA * mu)).mean()
    loss.backward()
    gradients = {name: weight.grad for name, weight in lm.named_parameters()}
    return gradients, float(loss.detach()), {name: part.detach() for name, part in seen.items()}


def test_the_gradient_is_that_of_the_hand_written_loss(folder: Path) -> None:
    batch = samples(LENGTHS)
    expected, loss, _ = hand_written(folder, batch)
    with world() as here:
        _, (gradients,), metrics = stepped(folder, here, batch, max_gradient_norm=NO_CLIP)
    norm = float(torch.stack([gradient.norm() for gradient in expected.values()]).norm())
    assert furthest(gradients, expected) < 1e-5 * max(1.0, norm)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_gradients_are_clipped_to_the_norm_and_the_true_norm_is_reported(folder: Path) -> None:
    batch = samples(LENGTHS)
    with world() as here:
        _, (free,), metrics = stepped(folder, here, batch, max_gradient_norm=NO_CLIP)
        _, (clipped,), again = stepped(folder, here, batch, max_gradient_norm=0.01)
    assert metrics["grad_norm"] == pytest.approx(again["grad_norm"]) and metrics["grad_norm"] > 0.1
    scale = 0.01 / metrics["grad_norm"]
    assert furthest(clipped, {name: part * scale for name, part in free.items()}) < 1e-7


def test_metrics_are_those_of_the_tokens(folder: Path) -> None:
    batch = samples(LENGTHS)
    _, _, seen = hand_written(folder, batch)
    pi, mu, adv = seen["logp"].exp(), seen["mu"], seen["adv"]
    weight = 1 - (adv * (pi / mu - 1)).sign() * (pi - mu).abs() / DELTA
    with world() as here:
        _, _, metrics = stepped(folder, here, batch, tokens_per_microbatch=20)
    expected = {"entropy": seen["entropy"].mean(), "weight_mean": weight.mean()}
    for name, values in {"ratio": pi / mu, "shift": (pi - mu).abs()}.items():
        ranked = values.sort().values
        expected[f"{name}_mean"], expected[f"{name}_max"] = values.mean(), ranked[-1]
        expected[f"{name}_p99"] = ranked[round(0.99 * len(ranked)) - 1]
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(float(value), rel=1e-4), name
    assert metrics["trained_tokens"] == len(pi) == sum(response for _, response in LENGTHS)
    assert metrics["corrective_share"] == pytest.approx(float((weight < 0).float().mean()))
    assert 0 < metrics["corrective_share"] < 1 and metrics["masked_share"] == 0


def test_tokens_without_a_gradient_are_counted_as_masked(folder: Path) -> None:
    with world() as here:
        trainer = open_trainer(folder, here, "dppo", {"delta_low": 0.05, "delta_high": 0.05})
        batch = samples(LENGTHS)
        metrics = trainer.step(experience(batch))
    _, _, seen = hand_written(folder, batch)
    shift = (seen["logp"].exp() - seen["mu"]) * seen["adv"].sign()
    assert metrics["masked_share"] == pytest.approx(float((shift > 0.05).float().mean()))
    assert 0 < metrics["masked_share"] < 1 and metrics["corrective_share"] == 0


@pytest.mark.parametrize("advantage", [float("inf"), float("nan")])
def test_a_non_finite_loss_skips_its_update_and_only_that(folder: Path, advantage: float) -> None:
    batch = samples(LENGTHS)
    broken = [
        replace(sample, advantages=(advantage,) * len(sample.response_ids)) if i == 3 else sample
        for i, sample in enumerate(batch)
    ]
    with world() as here:
        trainer = open_trainer(folder, here, options={"delta": DELTA})
        trainer.step(experience(batch))
        before, moved = weights(trainer.policy), moments(trainer)
        metrics = trainer.step(experience(broken))
        assert metrics["skipped_updates"] == 1
        assert all(torch.equal(before[name], now) for name, now in weights(trainer.policy).items())
        assert all(torch.equal(moved[name], now) for name, now in moments(trainer).items())
        assert trainer.step(experience(batch))["skipped_updates"] == 0
        assert furthest(before, weights(trainer.policy)) > 1e-4


@pytest.mark.parametrize("objective", ["drpo", "gspo", "trm", "cppo"])
def test_a_token_that_the_engine_cannot_have_sampled_is_left_out_and_counted(
    folder: Path, objective: str
) -> None:
    batch = samples(LENGTHS)
    odd, length = batch[3], len(batch[3].response_ids)
    broken, without = list(batch), list(batch)
    broken[3] = replace(odd, old_logps=(-math.inf, *odd.old_logps[1:]))
    without[3] = replace(odd, loss_mask=(False,) + (True,) * (length - 1))
    with world() as here:
        found = []
        for rows in (broken, without):
            trainer = open_trainer(folder, here, objective=objective)
            found.append((trainer.step(experience(rows)), weights(trainer.policy)))
    (metrics, now), (expected, then) = found
    assert (metrics["tokens_without_mu"], expected["tokens_without_mu"]) == (1, 0)
    assert metrics["skipped_updates"] == 0 and metrics["loss"] == expected["loss"]
    assert all(torch.equal(now[name], value) for name, value in then.items())


def test_the_other_updates_of_a_step_go_on(folder: Path) -> None:
    batch = samples(LENGTHS)
    broken = [
        *batch[:-1],
        replace(batch[-1], advantages=(float("nan"),) * len(batch[-1].response_ids)),
    ]
    with world() as here:
        metrics = stepped(folder, here, broken, updates_per_rollout=2)
        alone = stepped(folder, here, batch[::2])
    assert metrics[2]["skipped_updates"] == 1
    assert furthest(metrics[1][0], alone[1][0]) < 1e-6


def test_updates_take_disjoint_samples_in_turn(folder: Path) -> None:
    batch = samples(LENGTHS)
    with world() as here:
        together = open_trainer(folder, here, updates_per_rollout=3)
        metrics = together.step(experience(batch))
        apart = open_trainer(folder, here)
        reports = [apart.step(experience(batch[update::3])) for update in range(3)]
        assert furthest(weights(together.policy), weights(apart.policy)) < 1e-6
    assert metrics["loss"] == pytest.approx(sum(report["loss"] for report in reports) / 3, abs=1e-6)
    assert metrics["trained_tokens"] == sum(report["trained_tokens"] for report in reports)
    assert metrics["shift_max"] == pytest.approx(max(report["shift_max"] for report in reports))


class Work(TorchDispatchMode):
    """Counts the matrix products that really run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.products += func is torch.ops.aten.mm.default
        return func(*args, **(kwargs or {}))


def worked(folder: Path, here: World, keep: str | None) -> tuple[dict[str, Tensor], int, int]:
    """An update's gradients, how often a layer ran, and how many matrix products did."""
    options: dict[str, Any] = {}
    if keep:
        options = {"gradient_checkpointing": True, "checkpointing_keeps": keep}
    trainer = open_trainer(folder, here, options={"delta": DELTA}, **options)
    runs: list[int] = []
    layer: Any = trainer.policy.layers[0]
    layer.mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    with caught_gradients(trainer) as gradients, Work() as work:
        trainer.step(experience(samples(LENGTHS)))
    return gradients[0], len(runs), work.products


def test_what_checkpointing_keeps_runs_once_and_no_bit_differs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world() as here:
        whole, runs, products = worked(folder, here, None)
        found = {keep: worked(folder, here, keep) for keep in ("inputs", "products")}
        with monkeypatch.context() as patch:
            moved = watch_main_memory(patch)
            found["offloaded_inputs"] = worked(folder, here, "offloaded_inputs")
    assert runs == 1 and all(found[keep][1] == 2 for keep in found)
    assert all(furthest(found[keep][0], whole) == 0 for keep in found)
    again = 6 * 2  # of two layers q, k, v, o, gate and up: no gradient needs what down gave
    assert {keep: found[keep][2] - products for keep in found} == {
        "inputs": again,
        "products": 0,
        "offloaded_inputs": again,
    }
    tokens = sum(prompt + response - 1 for prompt, response in LENGTHS)
    assert moved == [(1, tokens, 128)] * 2


def watch_main_memory(patch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the tensors that `save_on_cpu` moves from now on."""
    moved: list[tuple[int, ...]] = []
    make = save_on_cpu.__init__

    def noting(self: Any, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        move = self.pack_hook

        def noted(tensor: Tensor) -> Any:
            moved.append(tuple(tensor.shape))
            return move(tensor)

        self.pack_hook = noted

    patch.setattr(save_on_cpu, "__init__", noting)
    return moved


@pytest.mark.parametrize("kind", ["qwen3", "gemma3", "phi3", "qwen3_moe"])
def test_gradient_checkpointing_changes_nothing_else(tmp_path: Path, kind: str) -> None:
    folder, batch = tiny_model(tmp_path, kind), samples(LENGTHS)
    with world() as here:
        _, (kept,), _ = stepped(folder, here, batch)
        _, (recomputed,), _ = stepped(folder, here, batch, gradient_checkpointing=True)
    assert furthest(kept, recomputed) < 1e-6


def test_replay_gives_log_probs_in_the_order_of_the_samples(folder: Path) -> None:
    batch = samples(LENGTHS)
    _, _, seen = hand_written(folder, batch)
    with world() as here:
        trainer: Trainer = open_trainer(folder, here, tokens_per_microbatch=15)
        replayed = trainer.replay(experience(batch))
        assert len(trainer.replay(experience([]))) == 0
    torch.testing.assert_close(replayed, seen["logp"], atol=1e-5, rtol=0)
    assert not replayed.requires_grad


def test_weights_changed_after_a_replay_are_the_ones_replayed_next(folder: Path) -> None:
    batch = samples(LENGTHS)
    with world() as here:
        trainer = open_trainer(folder, here)
        before = trainer.replay(experience(batch))
        assert all(isinstance(weight, DTensor) for _, weight in trainer.policy.named_weights())
        with torch.no_grad():
            for _, weight in trainer.policy.named_weights():
                local(weight).mul_(1.1)
        changed = trainer.replay(experience(batch))
        with torch.no_grad():
            for _, weight in trainer.policy.named_weights():
                local(weight).div_(1.1)
        assert (changed - before).abs().max() > 1e-2
        torch.testing.assert_close(trainer.replay(experience(batch)), before, atol=1e-5, rtol=0)


def test_a_token_that_the_policy_did_not_sample_has_no_loss_but_is_seen(folder: Path) -> None:
    """Masked tokens stay in the context of those after them, as tool output would."""
    batch = samples(LENGTHS)
    masks = [tuple((i + place) % 3 != 1 for i in range(n)) for place, (_, n) in enumerate(LENGTHS)]
    masked = [replace(row, loss_mask=mask) for row, mask in zip(batch, masks, strict=True)]
    _, _, seen = hand_written(folder, batch)
    keep = torch.tensor([kept for mask in masks for kept in mask])
    pi, mu = seen["logp"].exp()[keep], seen["mu"][keep]

    def by_hand(rows: list[ByHand]) -> Tensor:
        losses = []
        for row, mask in zip(rows, masks, strict=True):
            adv, old = torch.tensor(row.sample.advantages), torch.tensor(row.sample.old_logps)
            ours, theirs = row.logp_T.exp(), old.exp()
            loss = -adv * ours / theirs + adv.abs() * (ours - theirs) ** 2 / (2 * DELTA * theirs)
            losses.append(loss[torch.tensor(mask)])
        return torch.cat(losses).mean()

    expected, loss = gradients_by_hand(folder, batch, by_hand)
    with world() as here:
        for budget in (1000, 14):
            _, (gradients,), metrics = stepped(
                folder, here, masked, max_gradient_norm=NO_CLIP, tokens_per_microbatch=budget
            )
            assert furthest(gradients, expected) < 1e-5
            assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
            assert metrics["trained_tokens"] == int(keep.sum()) < sum(n for _, n in LENGTHS)
            assert metrics["shift_mean"] == pytest.approx(float((pi - mu).abs().mean()), rel=1e-4)
