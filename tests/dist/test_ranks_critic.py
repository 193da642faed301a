"""Two ranks with reductions, terms and a critic compute what one would."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from drpo_cli.settings import CriticSettings, ReferenceSettings, TeacherSettings
from support import jobs
from support.models import Row, samples, tiny_model, world
from support.ranks import Ranks
from support.servers import serving
from support.teachers import answering
from support.training import furthest, valued

LENGTHS = [(3, 9), (6, 2), (1, 5), (4, 4), (2, 12), (5, 1), (3, 3), (8, 7)]
CRITIC = CriticSettings(learning_rate=1e-3)
REDUCTIONS: list[dict[str, Any]] = [
    {"reduction": "token_mean"},
    {"reduction": "sequence_mean"},
    {"reduction": "fixed_horizon", "horizon": 17},
]


def alone(model: Path, batches: Sequence[Sequence[Row]], **settings: Any) -> jobs.Trained:
    with world() as here:
        return jobs.train(here, model, [[batch] for batch in batches], **settings)


def require_same(one: jobs.Trained, other: jobs.Trained) -> None:
    for left, right in zip(one.gradients, other.gradients, strict=True):
        assert furthest(left, right) < 1e-6
    assert furthest(one.weights, other.weights) < 1e-6
    assert one.critic.keys() == other.critic.keys()
    assert all(torch.allclose(one.critic[n], other.critic[n], atol=1e-6) for n in one.critic)
    for left_metrics, right_metrics in zip(one.metrics, other.metrics, strict=True):
        assert left_metrics == pytest.approx(right_metrics, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("mine", [4, 1, 0])
@pytest.mark.parametrize("reduction", REDUCTIONS, ids=[r["reduction"] for r in REDUCTIONS])
def test_reductions(two: Ranks, model: Path, reduction: dict[str, Any], mine: int) -> None:
    batch = samples(LENGTHS)
    # which update a sample belongs to is counted over ranks of equal shares
    settings = {**reduction, "tokens_per_microbatch": 14, "updates_per_rollout": 1 + (mine == 4)}
    found = two.run(jobs.train, model=model, shares=[[batch[:mine], batch[mine:]]], **settings)
    require_same(found[0], alone(model, [batch], **settings))
    assert found[0].metrics == found[1].metrics


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=[r["reduction"] for r in REDUCTIONS])
def test_all_left_out_on_one_rank_and_on_both(
    two: Ranks, model: Path, reduction: dict[str, Any]
) -> None:
    batch = samples(LENGTHS)
    nothing = [replace(sample, kept=False) for sample in batch]
    shares = [[nothing[:4], batch[4:]], [nothing[:4], nothing[4:]]]
    for rank in two.run(jobs.train, model=model, shares=shares, **reduction):
        expected = alone(model, [batch[4:]], **reduction)
        assert [metrics["skipped_updates"] for metrics in rank.metrics] == [0, 1]
        assert math.isnan(rank.metrics[1]["loss"])
        assert furthest(rank.weights, expected.weights) < 1e-6
        assert rank.metrics[0] == pytest.approx(expected.metrics[0], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kl", ["k1", "k3"])
def test_reference_anchor_and_entropy(two: Ranks, model: Path, tmp_path: Path, kl: Any) -> None:
    batches = [samples(LENGTHS, seed) for seed in (1, 2)]
    settings: dict[str, Any] = {
        "reference": ReferenceSettings(
            path=str(tiny_model(tmp_path, seed=1)), kl=kl, coefficient=0.1
        ),
        "anchor": "trainer",
        "importance_cap": 1.5,
        "entropy_bonus": 0.01,
        "tokens_per_microbatch": 14,
    }
    found = two.run(jobs.train, model=model, shares=[[b[:3], b[3:]] for b in batches], **settings)
    require_same(found[0], alone(model, batches, **settings))
    assert found[0].metrics == found[1].metrics
    assert found[0].metrics[0]["reference_kl"] > 0.01


def test_a_teacher(two: Ranks, model: Path, tmp_path: Path) -> None:
    batches = [samples(LENGTHS, seed) for seed in (1, 2)]
    settings: dict[str, Any] = {
        "teacher": TeacherSettings(path=str(tiny_model(tmp_path, seed=1)), coefficient=0.5),
        "tokens_per_microbatch": 14,
    }
    found = two.run(jobs.train, model=model, shares=[[b[:3], b[3:]] for b in batches], **settings)
    require_same(found[0], alone(model, batches, **settings))
    assert found[0].metrics == found[1].metrics
    assert found[0].metrics[0]["teacher_kl"] > 0.01
    untaught = alone(model, batches, **{**settings, "teacher": None})
    assert furthest(found[0].weights, untaught.weights) > 1e-5


def test_a_teacher_behind_an_endpoint(two: Ranks, model: Path, tmp_path: Path) -> None:
    batch = samples(LENGTHS)
    shares = [[batch[:3], batch[3:]]]
    with serving(answering(tiny_model(tmp_path, seed=1))) as server:
        teacher = TeacherSettings(url=f"{server.url}/v1", model="tiny", coefficient=0.5)
        asked = two.run(jobs.train, model=model, shares=shares, teacher=teacher)
        assert len(server.asked) == len(batch)
    assert asked[0].metrics == asked[1].metrics
    assert asked[0].metrics[0].pop("teacher_retries") == 0
    assert asked[0].metrics[0].pop("teacher_wait_s") > 0
    local = TeacherSettings(path=str(tmp_path), coefficient=0.5)
    require_same(asked[0], alone(model, [batch], teacher=local))


@pytest.mark.parametrize("mine", [4, 7, 0])
def test_a_critic(two: Ranks, model: Path, mine: int) -> None:
    batches = [valued(samples(LENGTHS, seed), seed) for seed in (1, 2)]
    settings = {"critic": CRITIC, "tokens_per_microbatch": 14}
    shares = [[batch[:mine], batch[mine:]] for batch in batches]
    found = two.run(jobs.train, model=model, shares=shares, **settings)
    require_same(found[0], alone(model, batches, **settings))
    assert found[0].metrics == found[1].metrics
    assert furthest(found[0].critic, found[1].critic) == 0


@pytest.mark.parametrize("mine", [4, 1, 0])
def test_values_losses_and_whitening(two: Ranks, model: Path, mine: int) -> None:
    batch = valued(samples(LENGTHS))
    settings = {"epsilon": 1e-3, "tokens_per_microbatch": 14}
    with world() as here:
        expected = jobs.judged(here, model, [batch], **settings)
    found = two.run(jobs.judged, model=model, share=[batch[:mine], batch[mine:]], **settings)
    for name in ("losses", "explained"):
        assert found[0][name] == found[1][name] == pytest.approx(expected[name], rel=1e-5)
    assert expected["losses"][1] < expected["losses"][0]
    for name in ("values", "whitened"):
        flat = [value for rank in found for value in rank[name]]
        assert flat == pytest.approx(expected[name], abs=1e-5)


def test_a_critic_saved_on_two_ranks_is_loaded_on_one_and_goes_on_bit_for_bit_on_two(
    two: Ranks, model: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "step-000001"
    first, second = (valued(samples(LENGTHS, seed), seed) for seed in (1, 2))
    shares = [[batch[:4], batch[4:]] for batch in (first, second)]
    straight = two.run(jobs.train, model=model, shares=shares, critic=CRITIC)[0]
    written = two.run(jobs.train, model=model, shares=shares[:1], save=saved, critic=CRITIC)[0]
    with world() as here:
        loaded = jobs.train(here, model, [], load=saved, critic=CRITIC)
    assert furthest(written.critic, loaded.critic) == 0
    resumed = two.run(jobs.train, model=model, shares=shares[1:], load=saved, critic=CRITIC)[0]
    assert furthest(straight.critic, resumed.critic) == 0
    assert furthest(straight.weights, resumed.weights) == 0
    assert straight.metrics[1] == resumed.metrics[0]
