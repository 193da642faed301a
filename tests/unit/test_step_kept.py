"""Kept responses: what a killed evaluation has is not sampled again, and the rest is the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.errors import UserError
from drpo_cli.rollout import transformers
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling
from drpo_cli.rollout.engine.requests import Key, Requests
from drpo_cli.settings import ModelSettings
from drpo_cli.step.kept import (
    RESPONSES,
    Keep,
    KeptResponses,
    Shard,
    digest_weights,
    folder_name,
    open_folder,
)
from drpo_cli.step.play import sample_or_play
from drpo_cli.types import Rollout
from support.command import records
from support.models import tiny_model
from support.playing import CONTEXT, ECHO, player_of, prompts_of

SAMPLING = Sampling(samples=3, max_new_tokens=5, temperature=1.0, seed=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
    path = tiny_model(tmp_path_factory.mktemp("kept") / "model")
    return ModelSettings(path=str(path), dtype="float32")


@pytest.fixture(scope="module")
def engine(model: ModelSettings) -> Iterator[transformers.Engine]:
    made = transformers.Engine(transformers.Config(), EngineContext(model, CONTEXT, 1))
    yield made
    made.close()


class Counting:
    """The engine, which is killed after so many responses; closing it ends nothing."""

    def __init__(self, engine: transformers.Engine, most: int = 1000) -> None:
        self.engine, self.most, self.sampled = engine, most, 0

    def generate(
        self, requests: Requests, sampling: Sampling
    ) -> Generator[tuple[Key, Rollout], None, None]:
        for answered in self.engine.generate(requests, sampling):
            if self.sampled == self.most:
                raise InterruptedError
            self.sampled += 1
            yield answered


def keep_in(folder: Path, shard: Shard | None = None) -> Keep:
    keep = Keep(folder / "kept", shard)
    open_folder(keep, {"weights": "a"})
    return keep


def kept(keep: Keep, start: Callable[[], Any]) -> KeptResponses:
    return KeptResponses(start, keep)


def texts(groups_P: list[Any]) -> list[list[str]]:
    return [[rollout.text for rollout in group.rollouts_G] for group in groups_P]


def test_a_killed_evaluation_samples_only_what_is_missing(
    tmp_path: Path, model: ModelSettings, engine: transformers.Engine
) -> None:
    prompts_P = prompts_of(model, "a", "b")
    whole = sample_or_play(engine, None, prompts_P, SAMPLING)
    keep, killed, later = keep_in(tmp_path), Counting(engine, most=4), Counting(engine)
    with pytest.raises(InterruptedError):
        sample_or_play(kept(keep, lambda: killed), None, prompts_P, SAMPLING)
    file = keep.file(RESPONSES)
    assert len(records(file)) == 4
    file.write_bytes(file.read_bytes()[:-7])  # the kill cut the last line short
    again = sample_or_play(kept(keep, lambda: later), None, prompts_P, SAMPLING)
    assert texts(again) == texts(whole)
    assert later.sampled == 3
    more = Counting(engine)
    sample_or_play(kept(keep, lambda: more), None, prompts_P, replace(SAMPLING, samples=4))
    assert more.sampled == 2


@pytest.mark.parametrize("limit", [10, 40])
def test_another_budget_samples_only_what_it_changes(
    limit: int, tmp_path: Path, model: ModelSettings, engine: transformers.Engine
) -> None:
    prompts_P = prompts_of(model, "a", "b")
    before, after = (replace(SAMPLING, samples=16, max_new_tokens=most) for most in (20, limit))
    whole = sample_or_play(engine, None, prompts_P, after)
    keep, later = keep_in(tmp_path), Counting(engine)
    first = sample_or_play(kept(keep, lambda: engine), None, prompts_P, before)
    again = sample_or_play(kept(keep, lambda: later), None, prompts_P, after)
    assert texts(again) == texts(whole)
    responses = [one for group in first for one in group.rollouts_G]
    changed = [one for one in responses if one.truncated or len(one.token_ids) > limit]
    assert 0 < later.sampled == len(changed) < len(responses)


def test_shards_together_are_the_whole(
    tmp_path: Path, model: ModelSettings, engine: transformers.Engine
) -> None:
    prompts_P = prompts_of(model, "a", "b", "c")
    whole = sample_or_play(engine, None, prompts_P, SAMPLING)
    for text, prompts in (("2/2", 1), ("1/2", 2)):
        shard, counting = Shard.parse(text), Counting(engine)
        keep = keep_in(tmp_path, shard)
        part = shard.share(prompts_P)
        sample_or_play(kept(keep, lambda one=counting: one), None, part, SAMPLING)  # type: ignore[misc]
        assert counting.sampled == 3 * prompts
    found = kept(keep_in(tmp_path), lambda: pytest.fail("nothing is missing"))
    assert texts(sample_or_play(found, None, prompts_P, SAMPLING)) == texts(whole)


def test_episodes_go_on_in_the_middle(
    tmp_path: Path, model: ModelSettings, engine: transformers.Engine
) -> None:
    prompts_P, keep = prompts_of(model, "a", "b"), keep_in(tmp_path)
    with player_of(tmp_path, model, ECHO) as player:
        whole = player.play(engine, prompts_P, SAMPLING)
        killed, later = Counting(engine, most=8), Counting(engine)
        with pytest.raises(InterruptedError):
            player.play(kept(keep, lambda: killed), prompts_P, SAMPLING)
        again = player.play(kept(keep, lambda: later), prompts_P, SAMPLING)
        rest = player.play(kept(keep, lambda: pytest.fail("none is missing")), prompts_P, SAMPLING)
    for found in (again, rest):
        assert [[one.token_ids for one in group.rollouts_G] for group in found] == [
            [one.token_ids for one in group.rollouts_G] for group in whole
        ]
    assert later.sampled == 2 * 3 * 3 - 8


def test_other_conditions_are_refused(tmp_path: Path) -> None:
    keep_in(tmp_path)
    open_folder(Keep(tmp_path / "kept", Shard(1, 2)), {"weights": "a"})
    with pytest.raises(UserError, match=r"weights = 'a', and these would be with 'b'.*--out"):
        open_folder(Keep(tmp_path / "kept"), {"weights": "b"})
    (tmp_path / "kept" / "conditions.json").write_text("[]")
    with pytest.raises(UserError, match="cannot be read"):
        keep_in(tmp_path)


def test_the_weights_are_told_apart(tmp_path: Path) -> None:
    first, second = (tiny_model(tmp_path / name) for name in ("a", "b"))
    assert digest_weights(first) == digest_weights(second)
    config = second / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rope_theta": 7.0}))
    assert digest_weights(first) != digest_weights(second)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not I/N"):
        Shard.parse(text)


def test_every_problem_is_in_one_shard() -> None:
    shards = [Shard(i, 3).share(range(7)) for i in (1, 2, 3)]
    assert sorted(chain(*shards)) == list(range(7))
    assert {len(shard) for shard in shards} == {2, 3}


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("runs/a/", "runs-a"),
        ("../x y", "x-y"),
        ("Qwen/Qwen3-0.6B", "Qwen-Qwen3-0.6B"),
        (".", "target"),
    ],
)
def test_a_folder_is_named_after_its_target(target: str, name: str) -> None:
    assert folder_name(target) == name
