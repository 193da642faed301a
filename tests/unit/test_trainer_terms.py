"""Anchor, importance weights, divergence and entropy: closed forms, and through the model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy

from drpo_cli.settings import ModelSettings, ReferenceSettings
from drpo_cli.step.divergence import with_divergence
from drpo_cli.trainer import loading, terms
from drpo_cli.trainer.batches import replay
from support.models import Row, experience, samples, tiny_model, world
from support.training import (
    ByHand,
    caught_gradients,
    furthest,
    gradients_by_hand,
    log_probs_by_hand,
    open_policy,
    open_trainer,
    weights,
)

LENGTHS = [(3, 9), (6, 2), (1, 5), (4, 4), (2, 12), (5, 1)]
BETA = 0.3
FREE: dict[str, Any] = {"max_gradient_norm": 1e9, "tokens_per_microbatch": 20}
SMALL = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("other"), seed=1)


def policy_gradient(seen: ByHand) -> Tensor:
    """Objective `none`: −A r of each token."""
    old_T, adv_T = torch.tensor(seen.sample.old_logps), torch.tensor(seen.sample.advantages)
    return -adv_T * (seen.logp_T - old_T).exp()


def require_gradient(
    folder: Path, batch: list[Row], token_loss: Callable[[ByHand], Tensor], **settings: Any
) -> dict[str, float]:
    """Whether the trainer's gradient with objective `none` is that of the mean of these losses."""
    expected, loss = gradients_by_hand(
        folder, batch, lambda seen: torch.cat([token_loss(each) for each in seen]).mean()
    )
    norm = float(torch.stack([gradient.norm() for gradient in expected.values()]).norm())
    with world() as here:
        trainer = open_trainer(folder, here, "none", **FREE, **settings)
        with caught_gradients(trainer) as gradients:
            metrics = trainer.step(experience(batch))
    assert furthest(gradients[0], expected) < SMALL * max(1.0, norm)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5, abs=1e-6)
    return metrics


Formulas = dict[str, Callable[[float], float]]


def divergence_loss(kl: Any, logp_T: Tensor, old_logp_T: Tensor, ref_logp_T: Tensor) -> Tensor:
    """The term of a reference with β = 1, without an objective."""
    packed: Any = SimpleNamespace(old_logp_T=old_logp_T, ref_logp_T=ref_logp_T, importance_T=None)
    settings = ReferenceSettings(kl=kl, coefficient=1.0)
    nothing_T = torch.zeros_like(logp_T)
    return terms.with_terms(nothing_T, packed, (logp_T, nothing_T), settings, 0.0)


def test_the_estimators_are_their_formulas_and_so_are_their_bounded_slopes() -> None:
    d = [-19.0, -3.0, -0.5, -1e-6, 0.0, 1e-6, 0.5, 3.0, 19.0]
    value: Formulas = {
        "k1": lambda x: x,
        "k2": lambda x: x * x / 2,
        "k3": lambda x: math.expm1(-x) + x,
    }
    slope: Formulas = {"k2": lambda x: x, "k3": lambda x: -math.expm1(-x)}
    for kl, formula in value.items():
        logp_T = torch.tensor([-1.0 + x for x in d], dtype=torch.float64, requires_grad=True)
        ref_logp_T = torch.full_like(logp_T, -1.0)
        k_T = terms.divergence(kl, logp_T, ref_logp_T)
        assert k_T.tolist() == pytest.approx([formula(x) for x in d], rel=1e-9, abs=1e-15)
        if kl == "k1":
            continue
        loss_T = divergence_loss(kl, logp_T, logp_T.detach(), ref_logp_T)
        assert torch.equal(loss_T, k_T)
        (slope_T,) = torch.autograd.grad(loss_T.sum(), logp_T)
        expected = [max(-10.0, min(10.0, slope[kl](x))) for x in d]
        assert slope_T.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_the_weight_of_a_divergence_is_bounded() -> None:
    logp_T = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    old_T, ref_T = torch.tensor([-1.5, -9.0, -math.inf]), torch.full((3,), -3.0)
    (slope_T,) = torch.autograd.grad(divergence_loss("k2", logp_T, old_T, ref_T).sum(), logp_T)
    assert slope_T.tolist() == pytest.approx([2 * math.exp(0.5), 20, 20])


def test_a_token_that_the_reference_never_says_gives_a_finite_divergence() -> None:
    logp_T, ref_logp_T = torch.tensor([-1.0, -900.0]), torch.tensor([-900.0, -1.0])
    for kl in ("k1", "k2", "k3"):
        assert bool(terms.divergence(kl, logp_T, ref_logp_T).isfinite().all())


@pytest.mark.parametrize("distance", [0.0, 0.5])
def test_k1_and_k3_are_the_divergence_on_average_and_gradients_are_those_of_the_docstring(
    distance: float,
) -> None:
    """Also where the tokens come from another policy μ, at a distance."""
    generator = torch.Generator().manual_seed(0)
    logits_V, ref_V, noise_V = torch.randn(3, 50, generator=generator, dtype=torch.float64) / 2
    mu_logp_V = (logits_V + distance * noise_V).log_softmax(-1)
    logits_V.requires_grad_()
    logp_V, ref_logp_V = logits_V.log_softmax(-1), ref_V.log_softmax(-1)
    p_V = logp_V.exp()
    kl = (p_V * (logp_V - ref_logp_V)).sum()
    other_way = (ref_logp_V.exp() * (ref_logp_V - logp_V)).sum()
    for name in ("k1", "k3"):
        mean = (p_V * terms.divergence(name, logp_V, ref_logp_V)).sum()
        assert mean.item() == pytest.approx(kl.item(), rel=1e-12)
    for name, exact in (("k2", kl), ("k3", other_way)):
        mean = (mu_logp_V.exp() * divergence_loss(name, logp_V, mu_logp_V, ref_logp_V)).sum()
        expected_V, found_V = (
            torch.autograd.grad(value, logits_V, retain_graph=True)[0] for value in (exact, mean)
        )
        torch.testing.assert_close(found_V, expected_V, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kl", ["k2", "k3"])
def test_the_divergence_is_added_to_the_loss(folder: Path, other: Path, kl: Any) -> None:
    batch = samples(LENGTHS)
    ref = {
        s.response_ids: logp_T
        for s, logp_T in zip(batch, log_probs_by_hand(other, batch), strict=True)
    }

    def by_hand(seen: ByHand) -> Tensor:
        d_T = seen.logp_T.detach() - ref[seen.sample.response_ids]
        k_T = d_T**2 / 2 if kl == "k2" else (-d_T).exp() - 1 + d_T
        slope_T = (d_T if kl == "k2" else 1 - (-d_T).exp()).clamp(min=-10)
        weight_T = (seen.logp_T.detach() - torch.tensor(seen.sample.old_logps)).exp().clamp(max=10)
        k_T = k_T + slope_T * (seen.logp_T - seen.logp_T.detach())
        return policy_gradient(seen) + BETA * weight_T * k_T

    settings = ReferenceSettings(path=str(other), kl=kl, coefficient=BETA)
    metrics = require_gradient(folder, batch, by_hand, reference=settings)
    old_T = torch.tensor([logp for s in batch for logp in s.old_logps])
    d_T = old_T - torch.cat(list(ref.values()))
    assert metrics["reference_kl"] == pytest.approx(float((d_T.neg().expm1() + d_T).mean()), 1e-5)


def test_k1_is_no_term_of_the_loss_and_comes_off_the_scores_by_one_replay(
    folder: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = samples(LENGTHS)
    settings = ReferenceSettings(path=str(other), kl="k1", coefficient=BETA)
    require_gradient(folder, batch, policy_gradient, reference=settings)

    replays: list[int] = []
    whole = terms.Reference.replay

    def counted(*args: Any) -> Tensor:
        replays.append(1)
        return whole(*args)

    monkeypatch.setattr(terms.Reference, "replay", counted)
    ref = torch.stack([logp_T.sum() for logp_T in log_probs_by_hand(other, batch)])
    old = torch.tensor([sum(s.old_logps) for s in batch])
    with world() as here:
        trainer = open_trainer(folder, here, reference=settings)
        exp = with_divergence(experience(batch), trainer)
        assert trainer.step(exp)["reference_kl"] > 0 and replays == [1]
    assert exp.score_S.tolist() == pytest.approx((-BETA * (old - ref)).tolist(), abs=1e-4)


@pytest.mark.parametrize("kl", ["k1", "k2", "k3"])
def test_a_reference_equal_to_the_policy_changes_nothing_yet(folder: Path, kl: Any) -> None:
    batch, after = samples(LENGTHS), []
    with world() as here:
        for reference in (None, ReferenceSettings(kl=kl, coefficient=10.0)):
            trainer = open_trainer(folder, here, reference=reference, anchor="trainer", epsilon=1)
            metrics = trainer.step(experience(batch))
            after.append(weights(trainer.policy))
    assert metrics["reference_kl"] == 0
    assert furthest(*after) < 1e-7 < 1e-5 < furthest(after[0], weights_of(folder))


def weights_of(folder: Path) -> dict[str, Tensor]:
    with world() as here:
        return weights(open_policy(folder, here))


def test_the_reference_stays_while_the_policy_leaves_it(folder: Path) -> None:
    batch = samples(LENGTHS)
    with world() as here:
        trainer = open_trainer(
            folder, here, reference=ReferenceSettings(), anchor="trainer", learning_rate=1e-2
        )
        assert trainer.reference is not None
        reference = trainer.reference.policy
        before = weights(reference)
        kl = [trainer.step(experience(batch))["reference_kl"] for _ in range(3)]
        assert furthest(before, weights(reference)) == 0
        assert furthest(before, weights(trainer.policy)) > 1e-3
    assert kl[0] == 0 < kl[1] and kl[2] > 1e-3
    assert not any(
        weight.requires_grad or weight.grad is not None for weight in reference.parameters()
    )


@pytest.mark.parametrize("kind", ["qwen3", "gemma3", "qwen3_moe"])
def test_a_reference_held_in_bfloat16_is_the_policy_computed_in_it(
    tmp_path: Path, kind: str
) -> None:
    """The policy's master weights are float32; a divergence of rounding would pull at it."""
    settings = ModelSettings(path=str(tiny_model(tmp_path, kind)), dtype="bfloat16")
    batch = samples([*LENGTHS, (40, 30)])
    with world() as here:
        policy = loading.load_policy(settings, 1.0, 5, None, here)
        reference = loading.load_reference(settings, 1.0, 5, here)
        assert {weight.dtype for weight in reference.parameters()} == {torch.bfloat16}
        ours, frozen = (replay(each, experience(batch), 50, here) for each in (policy, reference))
    assert torch.equal(ours, frozen)


@pytest.mark.parametrize(
    ("device", "offload", "policy"),
    [
        ("cuda", True, CPUOffloadPolicy),
        ("cuda", False, OffloadPolicy),
        ("cpu", True, OffloadPolicy),
    ],
)
def test_only_a_reference_on_a_gpu_is_offloaded(
    monkeypatch: pytest.MonkeyPatch, device: str, offload: bool, policy: type
) -> None:
    asked: list[OffloadPolicy] = []
    monkeypatch.setattr(
        loading,
        "fully_shard",
        lambda _, mesh, mp_policy, offload_policy: asked.append(offload_policy),
    )
    here: Any = SimpleNamespace(device=torch.device(device), mesh=None)
    layers: Any = SimpleNamespace(layers=[torch.nn.Identity(), torch.nn.Identity()])
    loading.shard(layers, torch.bfloat16, here, offload=offload)
    assert [type(each) for each in asked] == [policy] * 3


def test_the_entropy_bonus_raises_the_policys_entropy(folder: Path) -> None:
    batch = samples(LENGTHS)

    def by_hand(seen: ByHand) -> Tensor:
        return policy_gradient(seen) - 0.7 * seen.entropy_T

    require_gradient(folder, batch, by_hand, entropy_bonus=0.7)
    silent = [replace(s, advantages=(0.0,) * len(s.response_ids)) for s in batch]
    with world() as here:
        trainer = open_trainer(folder, here, entropy_bonus=1.0)
        entropies = [trainer.step(experience(silent))["entropy"] for _ in range(3)]
    assert entropies[0] < entropies[1] < entropies[2]


@pytest.mark.parametrize("cap", [None, 2.0, 0.01])
def test_anchored_on_the_trainer_the_first_ratio_is_1(folder: Path, cap: float | None) -> None:
    """What is left of μ is the weight ρ = min(π_old / μ, cap) on the loss."""
    batch = samples(LENGTHS)
    rho = []

    def by_hand(seen: ByHand) -> Tensor:
        adv_T, mu_T = (torch.tensor(c) for c in (seen.sample.advantages, seen.sample.old_logps))
        ratio_T = (seen.logp_T.detach() - mu_T).exp()
        rho.append(ratio_T if cap is None else ratio_T.clamp(max=cap))
        weight_T = torch.ones_like(ratio_T) if cap is None else rho[-1]
        return -weight_T * adv_T * (seen.logp_T - seen.logp_T.detach()).exp()

    metrics = require_gradient(folder, batch, by_hand, anchor="trainer", importance_cap=cap)
    assert cap is None or 0 < float((torch.cat(rho) == cap).float().mean()) <= 1
    for name in ("ratio_min", "ratio_mean", "ratio_max", "effective_sample_size"):
        assert metrics[name] == pytest.approx(1, abs=1e-5)
    assert metrics["shift_max"] < 1e-5


def test_the_anchor_is_where_the_step_began_not_where_its_update_does(folder: Path) -> None:
    batch = samples(LENGTHS)
    with world() as here:
        trainer = open_trainer(
            folder, here, anchor="trainer", updates_per_rollout=2, learning_rate=1e-2
        )
        metrics = trainer.step(experience(batch))
    assert metrics["ratio_min"] < 0.99 and metrics["ratio_max"] > 1.01
