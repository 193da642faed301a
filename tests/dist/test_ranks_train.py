"""Two ranks compute what one would, however the batch is spread over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from drpo_cli import plugins
from drpo_cli.plugins import Selected
from drpo_cli.settings import CriticSettings, LoraSettings, ReferenceSettings
from drpo_cli.types import Group
from support import jobs
from support.damaged import EMBEDDING, change, with_value
from support.models import Row, group, samples, tiny_model, world
from support.ranks import Ranks
from support.training import STEADY, furthest, valued
from support.turns import grouped, learn, played

LENGTHS = [(3, 9), (6, 2), (1, 5), (4, 4), (2, 12), (5, 1), (3, 3), (8, 7)]
TINY_BUDGET = {"tokens_per_microbatch": 12}


def alone(model: Path, batches: Sequence[Sequence[Row]], **settings: Any) -> jobs.Trained:
    with world() as here:
        return jobs.train(here, model, [[batch] for batch in batches], **settings)


def halves(batch: Sequence[Row]) -> list[Sequence[Row]]:
    return [batch[: len(batch) // 2], batch[len(batch) // 2 :]]


def require_same(one: jobs.Trained, other: jobs.Trained) -> None:
    assert len(one.gradients) == len(other.gradients) > 0
    for left, right in zip(one.gradients, other.gradients, strict=True):
        assert furthest(left, right) < 1e-6
    assert furthest(one.weights, other.weights) < 1e-6
    for left_metrics, right_metrics in zip(one.metrics, other.metrics, strict=True):
        assert left_metrics == pytest.approx(right_metrics, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", ["qwen3", "llama", "qwen3_moe"])
def test_two_ranks_of_four_are_one_of_eight(two: Ranks, tmp_path: Path, kind: str) -> None:
    model = tiny_model(tmp_path, kind)
    batches = [samples(LENGTHS, seed) for seed in (1, 2)]
    expected = alone(model, batches)
    found = two.run(jobs.train, model=model, shares=[halves(batch) for batch in batches])
    assert found[0].metrics == found[1].metrics
    for rank in found:
        require_same(rank, expected)
    first, last = expected.gradients
    assert furthest(first, last) > 1e-3


@pytest.mark.parametrize(("kind", "keeps"), [("qwen3_5", None), ("falcon_h1", "inputs")])
def test_two_ranks_with_uneven_padded_rows_are_one(
    two: Ranks, tmp_path: Path, kind: str, keeps: str | None
) -> None:
    model = tiny_model(tmp_path, kind)
    batches = [valued(samples(LENGTHS, seed)) for seed in (1, 2)]
    settings: dict[str, Any] = {
        "critic": CriticSettings(),
        "reference": ReferenceSettings(coefficient=0.5),
        "gradient_checkpointing": keeps is not None,
        **TINY_BUDGET,
    }
    uneven = [[batch[:7], batch[7:]] for batch in batches]
    found = two.run(jobs.train, model=model, shares=uneven, **settings)
    for rank in found:
        require_same(rank, alone(model, batches, **settings))


@pytest.mark.parametrize("reduce", ["per_microbatch", "per_update"])
def test_two_ranks_train_the_adapters_that_one_does(two: Ranks, model: Path, reduce: str) -> None:
    batches = [samples(LENGTHS, seed) for seed in (1, 2)]
    settings: dict[str, Any] = {
        "lora": LoraSettings(rank=3),  # which two ranks do not divide
        "reference": ReferenceSettings(coefficient=0.5),
        "reduce_gradients": reduce,
        **TINY_BUDGET,
    }
    found = two.run(jobs.train, model=model, shares=[halves(b) for b in batches], **settings)
    for rank in found:
        require_same(rank, alone(model, batches, **settings))
    assert {name.split(".")[-2] for name in found[0].gradients[1]} == {"lora_A", "lora_B"}


@pytest.mark.parametrize("reduce", ["per_microbatch", "per_update"])
def test_several_updates_are_cut_alike(two: Ranks, model: Path, reduce: str) -> None:
    batch = samples(LENGTHS)
    # the updates do not divide a rank's share
    settings = {"updates_per_rollout": 3, "reduce_gradients": reduce, **TINY_BUDGET}
    found = two.run(jobs.train, model=model, shares=[halves(batch)], **settings)
    require_same(found[0], alone(model, [batch], **settings))
    assert len(found[0].gradients) == 3


@pytest.mark.parametrize(
    ("settings", "between"),
    [
        pytest.param({}, 2, id="by default a rank keeps its shard of the sum"),
        pytest.param({"reduce_gradients": "per_update"}, 1, id="or all of them"),
    ],
)
def test_gradients_that_a_rank_keeps_between_micro_batches(
    two: Ranks, model: Path, settings: dict[str, Any], between: int
) -> None:
    share = halves(samples(LENGTHS))
    ranks = two.run(jobs.kept_gradients, model=model, share=share, **TINY_BUDGET, **settings)
    for kept, weights in ranks:
        assert len(kept) > 2
        assert kept == [weights // between] * (len(kept) - 1) + [weights // 2]


@pytest.mark.parametrize(
    ("mine", "settings"),
    [
        pytest.param(1, TINY_BUDGET, id="fewer sequences than the other's micro-batches"),
        pytest.param(6, TINY_BUDGET, id="more micro-batches on the first rank"),
        pytest.param(0, {}, id="nothing on the first rank"),
        pytest.param(8, {"tokens_per_microbatch": 1}, id="one sequence a micro-batch, none"),
        pytest.param(3, {**TINY_BUDGET, "gradient_checkpointing": True}, id="checkpointing"),
    ],
)
def test_ragged_ranks_neither_hang_nor_differ(
    two: Ranks, model: Path, mine: int, settings: dict[str, Any]
) -> None:
    batch = samples(LENGTHS)
    found = two.run(jobs.train, model=model, shares=[[batch[:mine], batch[mine:]]], **settings)
    require_same(found[0], alone(model, [batch], **settings))
    assert found[0].metrics == found[1].metrics


@pytest.mark.parametrize(
    ("settings", "critic"),
    [
        pytest.param({"minibatches": "spread"}, None, id="some of each group"),
        pytest.param({"minibatches": "groups"}, None, id="whole groups"),
        pytest.param({"reference": ReferenceSettings()}, CriticSettings(), id="two more models"),
    ],
)
def test_a_rank_with_all_the_long_responses_shares_them(
    two: Ranks, model: Path, settings: dict[str, Any], critic: CriticSettings | None
) -> None:
    """The second rank's responses are short: it takes over rows, and each update stays the same."""
    batch = [row for seed in range(2) for row in group(6, [20, 25, 18, 22], seed)]
    batch += [row for seed in range(2, 4) for row in group(4, [2, 1, 3, 1], seed)]
    batch = valued(batch)
    settings = {"updates_per_rollout": 2, "tokens_per_microbatch": 50, **settings}
    shares = [halves(batch), halves(batch)]
    found = two.run(jobs.train, model=model, shares=shares, critic=critic, **settings)
    expected = alone(model, [batch, batch], critic=critic, **settings)
    assert len(expected.gradients) == 4
    for rank in found:
        require_same(rank, expected)
    assert found[0].metrics == found[1].metrics


def test_ragged_replay(two: Ranks, model: Path) -> None:
    batch = samples(LENGTHS)
    with world() as here:
        expected = jobs.replay(here, model, [batch])
    found = two.run(jobs.replay, model=model, share=[batch[:1], batch[1:]], **TINY_BUDGET)
    torch.testing.assert_close(torch.cat(found), expected, atol=1e-5, rtol=0)


def test_a_non_finite_loss_on_one_rank_skips_the_update_on_both(two: Ranks, model: Path) -> None:
    batch = samples(LENGTHS)
    broken = [
        *batch[:-1],
        replace(batch[-1], advantages=(float("nan"),) * len(batch[-1].response_ids)),
    ]
    found = two.run(jobs.train, model=model, shares=[halves(batch), halves(broken)])
    for rank in found:
        assert [metrics["skipped_updates"] for metrics in rank.metrics] == [0, 1]
        assert furthest(rank.weights, alone(model, [batch]).weights) < 1e-6


def test_reductions(two: Ranks) -> None:
    for rank, found in enumerate(two.run(jobs.reduce)):
        assert found["place"] == (rank, 2)
        assert found["sum"] == [3, 0.2, 2.0**54]
        assert found["max"] == [1, 0, float("-inf")]
        assert math.isnan(found["nan"][0])
        assert found["gather"] == [10, 11, 12]
        assert found["exchange"] == [(0, rank), (1, rank)]
        assert found["objects"] == [{"rank": 0}, {"rank": 1}]


def test_all_ranks_refuse_a_weight_that_one_of_them_finds(
    two: Ranks, model: Path, tmp_path: Path
) -> None:
    last_row = with_value(EMBEDDING, torch.nan)  # of the second rank's shard
    folder = change(model, tmp_path / "model", last_row)
    first, second = two.run(jobs.refusal, model=folder)
    assert first == second
    assert "NaN or infinite values in" in first and EMBEDDING in first


def test_experts_move_with_their_rows(two: Ranks, tmp_path: Path) -> None:
    model = tiny_model(tmp_path, "qwen3_moe")
    rng = np.random.default_rng(0)

    def routed(row: Row) -> Row:
        """Two of eight experts for each token and layer."""
        scores = rng.random((row.input_length, 2, 8))
        return replace(row, experts=scores.argsort(-1)[..., :2].astype(np.uint8))

    batch = [routed(row) for row in samples(LENGTHS)]
    settings: dict[str, Any] = {"router_replay": True, **TINY_BUDGET}
    found = two.run(jobs.train, model=model, shares=[halves(batch)], **settings)
    expected = alone(model, [batch], **settings)
    assert expected.metrics[0]["router_disagreement"] > 0.5
    for rank in found:
        require_same(rank, expected)
    free = alone(model, [batch], **TINY_BUDGET)
    assert furthest(free.gradients[0], expected.gradients[0]) > 1e-3


# the second group is the longer one, so that its rank gives rows away
TURNS = [[[2, 1, 1], [1]], [[9, 2, 12, 3, 8], [5, 1, 7, 1, 11, 2, 6]]]
REDUCTIONS: list[dict[str, Any]] = [
    {"reduction": "token_mean"},
    {"reduction": "sequence_mean"},
    {"reduction": "fixed_horizon", "horizon": 16},
]


def episodes(apart: bool) -> list[Group]:
    return grouped(
        [
            [
                played(one, [float(i)] * (len(one) // 2 + 1), 7 * i)
                for i, one in enumerate(lengths_G)
            ]
            for lengths_G in TURNS
        ],
        apart=apart,
    )


def chosen(name: str, **options: Any) -> Selected[Any]:
    return Selected("advantages", name, plugins.load("advantages", name).Config(**options))


@pytest.mark.parametrize("kind", REDUCTIONS, ids=[kind["reduction"] for kind in REDUCTIONS])
def test_two_ranks_learn_from_rows_what_one_learns_from_episodes(
    two: Ranks, model: Path, kind: dict[str, Any]
) -> None:
    settings: dict[str, Any] = {
        "advantage": chosen("group_mean", credit="turn", turn_discount=0.5),
        "reference": ReferenceSettings(coefficient=0.5),
        "updates_per_rollout": 2,
        "tokens_per_microbatch": 24,
        "epsilon": STEADY,
        **kind,
    }
    with world() as here:
        expected, metrics, _ = learn(here, model, [episodes(apart=False)], **settings)
    found = two.run(
        learn, model=model, groups_R=[[one] for one in episodes(apart=True)], **settings
    )
    for gradients, again, _ in found:
        assert len(gradients) == len(expected) == 2
        for one, other in zip(gradients, expected, strict=True):
            assert furthest(one, other) < 1e-5
        assert again == pytest.approx(metrics, rel=1e-4, abs=1e-5)


def test_two_ranks_have_the_critic_that_one_has(two: Ranks, model: Path) -> None:
    settings: dict[str, Any] = {
        "advantage": chosen("gae", level="turn", discount=0.9),
        "critic": CriticSettings(learning_rate=1e-2),
        "epsilon": STEADY,
    }
    with world() as here:
        _, metrics, expected = learn(here, model, [episodes(apart=False)], **settings)
    found = two.run(
        learn, model=model, groups_R=[[one] for one in episodes(apart=True)], **settings
    )
    for _, again, critic in found:
        assert furthest(critic, expected) < 1e-5
        assert again == pytest.approx(metrics, rel=1e-4, abs=1e-5)
