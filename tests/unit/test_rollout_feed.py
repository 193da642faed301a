"""Requests that come while others are being sampled: the feed, and the engine of static batches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from drpo_cli.rollout import transformers
from drpo_cli.rollout.engine.feed import Feed
from drpo_cli.rollout.engine.protocol import EngineContext, sample_groups
from drpo_cli.rollout.engine.requests import AllAtOnce, Request
from drpo_cli.settings import ModelSettings
from drpo_cli.types import Rollout
from support.feeds import SAMPLING, Talks, replay_gap, starts
from support.models import tiny_model
from support.seeds import PROMPTS

END = Rollout((5,), (-1.0,), "", truncated=True)


def ends(feed: Feed, talks: Talks, *keys: tuple[int, int]) -> None:
    """The engine is done with these requests."""
    for key in keys:
        assert feed.answered((0, *key)) == key
        talks.answer(key, END)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("feed") / "model")


def engine_of(model: Path, **options: Any) -> transformers.Engine:
    settings = ModelSettings(path=str(model), dtype="float32")
    return transformers.Engine(transformers.Config(**options), EngineContext(settings, 128, 1))


def test_requests_that_come_together_are_in_the_order_of_their_keys() -> None:
    feed = Feed(Talks(starts(3), 1))
    assert [request.key for request in feed.take(busy=False)] == [(0, 0, 0), (0, 1, 0), (0, 2, 0)]
    assert feed.answered((0, 1, 0)) == (1, 0) and not feed.ended


def test_a_feed_without_requests_ends_at_once() -> None:
    feed = Feed(AllAtOnce([]))
    assert not feed.ended
    assert feed.take(busy=False) == [] and feed.ended


def test_a_round_begins_when_the_engine_is_idle_and_nothing_is_coming() -> None:
    talks = Talks(starts(3), 2, lambda talk, turn: 2 * talk + turn, in_rounds=True)
    feed = Feed(talks)
    taken = [[request.key[1:] for request in feed.take(busy=False)] for _ in range(5)]
    assert taken == [[], [], [], [], [(0, 0), (1, 0), (2, 0)]]
    ends(feed, talks, (0, 0))
    assert not any(feed.take(busy=True) for _ in range(5)), "two are still being sampled"
    ends(feed, talks, (1, 0), (2, 0))
    taken = [[request.key[1:] for request in feed.take(busy=False)] for _ in range(6)]
    assert taken == [[], [], [], [], [], [(0, 1), (1, 1), (2, 1)]]
    ends(feed, talks, (0, 1), (1, 1), (2, 1))
    assert feed.take(busy=False) == [] and feed.ended


def test_a_feed_is_asked_again_only_when_something_can_have_come() -> None:
    talks = Talks(starts(1), 2)
    asked: list[bool] = []
    take = talks.take

    def counted(wait: bool) -> Sequence[Request] | None:
        asked.append(wait)
        return take(wait)

    talks.take = counted  # type: ignore[method-assign]
    feed = Feed(talks)
    for _ in range(5):
        feed.take(busy=bool(asked))
    assert asked == [True], "all that live wait for responses"
    ends(feed, talks, (0, 0))
    for _ in range(5):
        feed.take(busy=True)
    assert asked == [True, False]


def test_the_last_round_is_given_after_the_feed_has_ended() -> None:
    """Other ranks, or the engine, may be busy when the last requests come."""
    requests = AllAtOnce([Request((0,), (5,), 0, 1)])
    requests.in_rounds = True
    feed = Feed(requests)
    assert [feed.take(busy=True), feed.take(busy=True)] == [[], []] and not feed.ended
    assert [request.key for request in feed.take(busy=False)] == [(0, 0)] and feed.ended


def test_static_batches_do_not_depend_on_how_long_environments_take(model: Path) -> None:
    engine = engine_of(model, max_sequences=4)
    prompt = starts(6)
    at_once = Talks(prompt, 3).hold(engine)
    assert len(at_once) == 18
    late = Talks(prompt, 3, lambda talk, turn: (5 * talk + 3 * turn) % 7)
    assert late.hold(engine) == at_once
    assert len(late.taken) > 6, "they came one by one"


def test_a_later_turn_follows_from_all_that_was_said(model: Path) -> None:
    """With log μ of exactly the tokens in front, and at most as many tokens as its request says."""
    said = Talks(starts(6), 3).hold(engine_of(model))
    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    assert replay_gap(said, lm) < 1e-5
    limits = {key: SAMPLING.max_new_tokens - sum(key) % 3 for key in said}
    assert any(rollout.truncated for _, rollout in said.values())
    for key, (_, rollout) in said.items():
        assert len(rollout.token_ids) <= limits[key]
        assert not rollout.truncated or len(rollout.token_ids) == limits[key]


def test_an_own_limit_ends_a_row_and_changes_no_other(model: Path) -> None:
    engine = engine_of(model)
    limits = (1, 20, 3, 20)
    own = AllAtOnce(Request((i,), (10 + i, 5, 6), i, limit) for i, limit in enumerate(limits))
    all_alike = AllAtOnce(Request((i,), (10 + i, 5, 6), i, 20) for i in range(4))
    cut, whole = (dict(engine.generate(requests, SAMPLING)) for requests in (own, all_alike))
    for (i,), rollout in cut.items():
        full = whole[(i,)]
        assert rollout.token_ids == full.token_ids[: limits[i]]
        assert rollout.logps == full.logps[: limits[i]]
        assert rollout.truncated == (full.truncated or len(full.token_ids) > limits[i])


def test_a_consumer_that_fails_ends_the_sampling(model: Path) -> None:
    engine = engine_of(model, max_sequences=2)
    whole = sample_groups(engine, PROMPTS, SAMPLING)

    def fails(at: int, sample: int, rollout: Rollout) -> None:
        raise KeyError(at)

    with pytest.raises(KeyError):
        sample_groups(engine, PROMPTS, SAMPLING, fails)
    with closing(engine.generate(AllAtOnce([Request((0,), (5,), 0, 9)]), SAMPLING)) as sampled:
        next(sampled)
    assert sample_groups(engine, PROMPTS, SAMPLING) == whole
