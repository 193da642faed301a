"""Four ranks as copies × shards: the same updates, checkpoints and pushes as one process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from drpo_cli.settings import CriticSettings, ReferenceSettings
from support import jobs
from support.models import Row, samples, tiny_model, world
from support.ranks import Ranks, open_ranks
from support.training import furthest, valued

LENGTHS = [(3, 9), (6, 2), (1, 5), (4, 4), (2, 12), (5, 1), (3, 3), (8, 7)]


@pytest.fixture(scope="module")
def four() -> Iterator[Ranks]:
    with open_ranks(4) as ranks:
        yield ranks


def on_mesh(four: Ranks, shard: int, job: Any, **arguments: Any) -> list[Any]:
    """The job's result on every rank of a mesh with `shard` ranks per copy of the weights."""
    return four.run(jobs.in_mesh, shard=shard, work=job, **arguments)


def quarters(batch: Sequence[Row]) -> list[Sequence[Row]]:
    return [batch[at : at + 2] for at in range(0, 8, 2)]


def alone(model: Path, batches: Sequence[Sequence[Row]], **settings: Any) -> jobs.Trained:
    with world() as here:
        return jobs.train(here, model, [[batch] for batch in batches], **settings)


@pytest.mark.parametrize("shard", [2, 1])
def test_a_mesh_makes_the_updates_of_one_process(four: Ranks, tmp_path: Path, shard: int) -> None:
    """With several micro-batches, a critic and a reference; odd rows do not divide over shards."""
    model = tiny_model(tmp_path / "model", vocab_size=67)
    reference = tiny_model(tmp_path / "reference", seed=1, vocab_size=67)
    batches = [valued(samples(LENGTHS, seed), seed) for seed in (1, 2)]
    settings: dict[str, Any] = {
        "critic": CriticSettings(learning_rate=1e-3),
        "reference": ReferenceSettings(path=str(reference)),
        "tokens_per_microbatch": 14,
        "max_gradient_norm": 0.1,  # gradients are clipped by the norm over the whole mesh
    }
    expected = alone(model, batches, **settings)
    shares = [quarters(batch) for batch in batches]
    found = on_mesh(four, shard, jobs.train, model=model, shares=shares, **settings)
    for rank in found:
        assert furthest(rank.weights, expected.weights) < 1e-6
        assert furthest(rank.critic, expected.critic) < 1e-6
        for one, other in zip(rank.gradients, expected.gradients, strict=True):
            assert furthest(one, other) < 1e-6
        for left, right in zip(rank.metrics, expected.metrics, strict=True):
            assert left == pytest.approx(right, rel=1e-5, abs=1e-6)
        assert rank.metrics == found[0].metrics
        assert furthest(rank.weights, found[0].weights) == 0  # copies do not drift apart
        assert furthest(rank.moments, found[0].moments) == 0
    assert expected.metrics[0]["grad_norm"] > 0.1


@pytest.mark.parametrize(("before", "after"), [(2, 4), (4, 2)])
def test_a_checkpoint_of_one_mesh_is_continued_on_another(
    four: Ranks, model: Path, tmp_path: Path, before: int, after: int
) -> None:
    saved = tmp_path / "step-000001"
    first, second = (quarters(samples(LENGTHS, seed)) for seed in (1, 2))
    written = on_mesh(four, before, jobs.train, model=model, shares=[first], save=saved)[0]
    resumed = on_mesh(four, after, jobs.train, model=model, shares=[second], load=saved)
    loaded = alone(model, [], load=saved)
    assert furthest(written.weights, loaded.weights) == 0
    assert furthest(written.moments, loaded.moments) == 0
    onward = alone(model, [samples(LENGTHS, 2)], load=saved)
    for rank in resumed:
        assert furthest(rank.weights, onward.weights) < 1e-6
        assert furthest(rank.weights, resumed[0].weights) == 0
        assert rank.metrics[0] == pytest.approx(onward.metrics[0], rel=1e-5, abs=1e-6)


def test_a_mesh_resumes_bit_for_bit(four: Ranks, model: Path, tmp_path: Path) -> None:
    saved = tmp_path / "step-000001"
    first, second = (quarters(samples(LENGTHS, seed)) for seed in (1, 2))
    straight = on_mesh(four, 2, jobs.train, model=model, shares=[first, second])[3]
    on_mesh(four, 2, jobs.train, model=model, shares=[first], save=saved)
    resumed = on_mesh(four, 2, jobs.train, model=model, shares=[second], load=saved)[3]
    assert furthest(straight.weights, resumed.weights) == 0
    assert furthest(straight.moments, resumed.moments) == 0
    assert straight.metrics[1] == resumed.metrics[0]


@pytest.mark.parametrize("kind", ["qwen3", "qwen3_moe"])
def test_a_mesh_sends_what_one_process_sends(four: Ranks, tmp_path: Path, kind: str) -> None:
    model = tiny_model(tmp_path, kind)
    with world() as here:
        expected = jobs.streamed(here, model, "bfloat16")
    for found in on_mesh(four, 2, jobs.streamed, model=model, rollout="bfloat16"):
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_a_rehearsal_disturbs_all_copies_alike(four: Ranks, model: Path) -> None:
    """An engine over several ranks takes its parts from all of their copies."""
    pushes = on_mesh(four, 2, jobs.rehearsed, model=model)
    for rehearsal, exact in pushes:
        assert furthest(rehearsal, pushes[0][0]) == 0
        assert furthest(exact, pushes[0][1]) == 0
        assert furthest(rehearsal, exact) > 1e-3


@pytest.mark.parametrize("in_rounds", [False, True])
def test_ranks_of_an_engine_ask_for_the_same_and_keep_their_own(
    four: Ranks, in_rounds: bool
) -> None:
    """Whenever their environments answer: ranks 0 and 3 have no conversation, 1 and 2 have some."""
    found = four.run(jobs.asked, size=2, in_rounds=in_rounds)
    keys = [steps for steps, _ in found]
    assert keys[0] == keys[1] and keys[2] == keys[3]
    own = [[key for keys in taken for key in keys] for _, taken in found]
    assert own[0] == own[3] == []
    assert own[1] == [(0, turn) for turn in range(3)]
    assert sorted(own[2]) == [(talk, turn) for talk in range(2) for turn in range(3)]
    rounds = [step for step in keys[2] if step]
    if in_rounds:
        assert rounds == [[(0, 0, turn), (0, 1, turn)] for turn in range(3)]
    else:
        assert len(rounds) > 3


def test_collectives_of_a_mesh_wait_as_long_as_those_of_all_ranks(four: Ranks) -> None:
    assert on_mesh(four, 2, jobs.timeouts) == [[7200.0, 7200.0]] * 4
