"""Episodes played with a real engine and real processes: limits, order, failures, seeds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from drpo_cli.errors import UserError
from drpo_cli.rollout import transformers
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling
from drpo_cli.settings import ModelSettings
from drpo_cli.types import Episode, Group, Rollout
from support.models import tiny_model
from support.playing import CONTEXT, ECHO, player_of, prompts_of

SAMPLING = Sampling(samples=2, max_new_tokens=5, temperature=1.0, seed=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
    path = tiny_model(tmp_path_factory.mktemp("play") / "model")
    return ModelSettings(path=str(path), dtype="float32")


@pytest.fixture(scope="module")
def engine(model: ModelSettings) -> Iterator[transformers.Engine]:
    made = transformers.Engine(transformers.Config(), EngineContext(model, CONTEXT, 1))
    yield made
    made.close()


def episodes_of(groups_P: list[Group]) -> list[tuple[Rollout, Episode]]:
    found = [(r, r.episode) for group in groups_P for r in group.rollouts_G]
    return [(rollout, episode) for rollout, episode in found if episode is not None]


def test_turns_follow_each_other_in_the_tokens(
    tmp_path: Path, model: ModelSettings, engine: transformers.Engine
) -> None:
    ended: list[tuple[int, int]] = []
    with player_of(tmp_path, model, ECHO) as player:
        groups_P = player.play(
            engine,
            prompts_of(model, "a", "b"),
            SAMPLING,
            lambda at, sample, rollout: ended.append((at, sample)),
        )
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    assert sorted(ended) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for rollout, episode in episodes_of(groups_P):
        assert episode.end == "done" and not rollout.truncated
        assert [turn.reward for turn in episode.turns] == [0.1, 0.2, 0.3]
        assert episode.reward == pytest.approx(0.6)
        assert rollout.sampled is not None and len(rollout.sampled) == len(rollout.token_ids)
        own = [list(range(turn.first, turn.end)) for turn in episode.turns]
        assert [t for t, mine in enumerate(rollout.sampled) if mine] == [*chain(*own)]
        pairs = zip(rollout.logps, rollout.sampled, strict=True)
        assert all((logp == 0) != mine for logp, mine in pairs)
        between = rollout.token_ids[own[0][-1] + 1 : own[1][0]]
        assert tokenizer.decode(between) == "seen 1"
        roles = [message["role"] for message in episode.messages]
        assert roles == ["user", "assistant"] * 3 + ["user"]


def test_a_group_starts_from_one_state_and_differs_after_it(
    tmp_path: Path, model: ModelSettings, engine: transformers.Engine
) -> None:
    with player_of(tmp_path, model, ECHO) as player:
        (group,) = player.play(engine, prompts_of(model, "a"), SAMPLING)
    first, second = group.rollouts_G
    assert first.prompt_ids == second.prompt_ids
    assert first.token_ids != second.token_ids


def test_the_order_of_answers_changes_nothing(
    tmp_path: Path, model: ModelSettings, engine: transformers.Engine
) -> None:
    slow = ECHO.replace("return 0.0", "import random; return random.SystemRandom().random() / 20")
    sampling = Sampling(samples=3, max_new_tokens=5, temperature=1.0, seed=3)
    played = []
    for source in (ECHO, slow, slow):
        with player_of(tmp_path, model, source) as player:
            played.append(player.play(engine, prompts_of(model, "a", "b", "c"), sampling))
    plain = [
        [(r.token_ids, r.logps, r.prompt_ids, r.sampled) for g in groups for r in g.rollouts_G]
        for groups in played
    ]
    assert plain[0] == plain[1] == plain[2]


def test_more_episodes_than_processes_are_all_played(
    tmp_path: Path, model: ModelSettings, engine: transformers.Engine
) -> None:
    with player_of(tmp_path, model, ECHO, workers=1) as player:
        groups_P = player.play(engine, prompts_of(model, "a", "b", "c"), SAMPLING)
    assert [episode.end for _, episode in episodes_of(groups_P)] == ["done"] * 6


@pytest.mark.parametrize(
    ("options", "end", "turns"),
    [
        ({"max_turns": 2}, "max_turns", 2),
        ({"max_tokens_per_episode": 9}, "max_tokens", 1),
    ],
)
def test_a_limit_ends_an_episode_and_marks_it(
    tmp_path: Path,
    model: ModelSettings,
    engine: transformers.Engine,
    options: dict[str, int],
    end: str,
    turns: int,
) -> None:
    with player_of(tmp_path, model, ECHO, **options) as player:
        groups_P = player.play(engine, prompts_of(model, "a"), SAMPLING)
    for rollout, episode in episodes_of(groups_P):
        assert (episode.end, len(episode.turns), rollout.truncated) == (end, turns, True)


def test_a_full_context_ends_an_episode(
    tmp_path: Path, model: ModelSettings, engine: transformers.Engine
) -> None:
    source = ECHO.replace('f"seen {self.turns}"', '"x" * 60').replace("== 3", "== 9")
    with player_of(tmp_path, model, source) as player:
        groups_P = player.play(engine, prompts_of(model, "a"), SAMPLING)
    for rollout, episode in episodes_of(groups_P):
        assert (episode.end, rollout.truncated) == ("context", True)
        assert rollout.prompt_ids is not None
        assert len(rollout.prompt_ids) + len(rollout.token_ids) <= CONTEXT


def test_an_episode_that_takes_too_long_is_ended(
    tmp_path: Path, model: ModelSettings, engine: transformers.Engine
) -> None:
    source = ECHO.replace("return 0.0", "return 600.0 if turn == 2 else 0.0")
    options = {"episode_timeout_s": 1.0, "timeout_s": 1000.0}
    with player_of(tmp_path, model, source, **options) as player:
        groups_P = player.play(engine, prompts_of(model, "a"), SAMPLING)
    for rollout, episode in episodes_of(groups_P):
        assert (episode.end, rollout.truncated) == ("timeout", True)


def test_what_answers_count_is_summed_and_waiting_is_measured(
    tmp_path: Path, model: ModelSettings, engine: transformers.Engine
) -> None:
    source = ECHO.replace("self.turns += 1", "self.turns += 1; print('12345')")
    with player_of(tmp_path, model, source) as player:
        groups_P = player.play(engine, prompts_of(model, "a"), SAMPLING)
        assert player.waited_s > 0  # at least for the start of the first process
    for _, episode in episodes_of(groups_P):
        assert episode.counts == {"printed_bytes": 3 * len("12345\n")}


def test_a_failed_episode_ends_alone(
    tmp_path: Path, model: ModelSettings, engine: transformers.Engine
) -> None:
    source = ECHO.replace("self.turns += 1", "self.turns += 1; assert self.name == 'b'").replace(
        "self.turns = 0", "self.turns = 0; self.name = row.prompt"
    )
    with player_of(tmp_path, model, source) as player:
        groups_P = player.play(engine, prompts_of(model, "a", "b"), SAMPLING)
    ends = [(episode.end, episode.failure) for _, episode in episodes_of(groups_P)]
    assert [end for end, _ in ends] == ["failed", "failed", "done", "done"]
    assert all(failure and failure[0] == "exception" for _, failure in ends[:2])


def test_a_start_longer_than_the_context_is_a_failure(
    tmp_path: Path, model: ModelSettings, engine: transformers.Engine
) -> None:
    source = ECHO.replace('f"{row.prompt} {rng.randint(0, 9)}"', '"x" * 200')
    with player_of(tmp_path, model, source) as player:
        groups_P = player.play(engine, prompts_of(model, "a"), SAMPLING)
    for rollout, episode in episodes_of(groups_P):
        assert (episode.end, rollout.token_ids) == ("failed", ())
        assert episode.failure is not None and "200 tokens" in episode.failure[1]


def test_a_start_that_is_not_from_its_rng_ends_the_run(
    tmp_path: Path, model: ModelSettings, engine: transformers.Engine
) -> None:
    source = ECHO.replace("rng.randint(0, 9)", "time.time_ns()")
    with (
        player_of(tmp_path, model, source) as player,
        pytest.raises(UserError, match=r"'Env', prompt own/0: its episodes .* start differently"),
    ):
        player.play(engine, prompts_of(model, "a"), SAMPLING)
