"""Episodes through the grader: totals, turns, failures, and the arguments that rewards get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.plugins import Selected
from drpo_cli.rewards.grading.episodes import GIVE_UP
from drpo_cli.rewards.grading.grader import Graded, Grader
from drpo_cli.settings import EnvironmentSettings
from drpo_cli.types import Episode, Group, Prompt, Rollout, Turn
from support.rewards import Own, group

ASKED = {"role": "user", "content": "Guess!"}
PROMPT = Prompt("own/3", "2+2=", (1, 2), "4", {}, messages=(ASKED,), environment="guess")
LENGTH = "def fn(completion): return float(len(completion))\n"


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return Own(tmp_path)


def episode(*rewards: float, text: str = "four", failure: tuple[str, str] | None = None) -> Rollout:
    """An episode with these rewards for its turns, which have two tokens each and one answer."""
    turns = tuple(
        Turn(0, 3 * at, 3 * at + 2, reward, answer_s=0.25) for at, reward in enumerate(rewards)
    )
    said = ({"role": "assistant", "content": text},) if rewards else ()
    return Rollout(
        (5, 6, 9) * len(rewards),
        (-0.1, -0.1, 0.0) * len(rewards),
        text if rewards else "",
        False,
        sampled=(True, True, False) * len(rewards),
        episode=Episode("guess", (ASKED, *said), turns, "failed" if failure else "done", failure),
    )


def environment(name: str = "guess", **options: Any) -> Selected[Any]:
    return Selected("environments", "./mine.py:Guess", EnvironmentSettings(name=name, **options))


def graded(
    rewards: list[Selected[Any]], groups_P: list[Group], forgiving: bool = False, **options: Any
) -> Graded:
    with Grader(rewards, [environment(**options)], forgiving) as grader:
        return grader.score(groups_P)


def test_an_environment_is_enough() -> None:
    (scores,) = graded([], [Group(PROMPT, (episode(1.0, -0.25), episode(0.5)))]).scores_P
    assert scores.total_G == (0.75, 0.5) and not scores.skipped
    assert scores.by_reward == {"guess": (0.75, 0.5)}
    assert scores.turn_rewards_G == ((1.0, -0.25), (0.5,))


def test_rewards_are_added_and_gates_multiply_all(own: Own) -> None:
    gate = own("def fn(completion): return 0.5", gate=True, name="fn")
    length = own(LENGTH, weight=0.25)
    length = Selected(length.kind, length.type, length.config.model_copy(update={"name": "length"}))
    group_of = Group(PROMPT, (episode(1.0, -0.5), episode()))
    (scores,) = graded([length, gate], [group_of], weight=2.0).scores_P
    assert scores.by_reward == {"guess": (0.5, 0.0), "length": (4.0, 0.0), "fn": (0.5, 0.5)}
    assert scores.total_G == ((2 * 0.5 + 0.25 * 4) * 0.5, 0.0)
    assert scores.turn_rewards_G == ((1.0, -0.5), ())


def test_an_environment_of_weight_0_is_a_metric(own: Own) -> None:
    (scores,) = graded([own(LENGTH)], [Group(PROMPT, (episode(7.0),))], weight=0.0).scores_P
    assert scores.total_G == (4.0,) and scores.by_reward["guess"] == (7.0,)
    assert scores.turn_rewards_G == ((0.0,),)


def test_plain_responses_are_graded_as_ever(own: Own) -> None:
    found = graded([own(LENGTH)], [group("a", "bb")])
    assert found.scores_P[0].by_reward == {"fn": (1.0, 2.0)}
    assert found.scores_P[0].turn_rewards_G is None
    with Grader([own(LENGTH)]) as grader:  # which knows no environment
        (scores,) = grader.score([Group(PROMPT, (episode(7.0),))]).scores_P
    assert scores.by_reward == {"fn": (4.0,)} and scores.turn_rewards_G is None


BROKEN = ("exception", "ZeroDivisionError: no (environments.py:7 in step); fix the environment")


@pytest.mark.parametrize("weight", [1.0, 0.0])
@pytest.mark.parametrize("on_error", ["stop", "zero", "skip_sample"])
def test_what_a_failed_episode_does(own: Own, on_error: str, weight: float) -> None:
    calls = own("def fn(completion):\n    assert completion == 'four'\n    return 4.0\n")
    failed = episode(1.0, 0.5, text="five", failure=BROKEN)
    group_of = Group(PROMPT, (episode(1.0), failed))
    found = graded([calls], [group_of], weight=weight, on_error=on_error)
    (record,) = found.quarantine
    assert json.loads(json.dumps(record)) == {
        "reward": "guess",
        "environment": "guess",
        "reason": "exception",
        "detail": BROKEN[1],
        "prompt_id": "own/3",
        "sample": 1,
        "turn": 2,
        "prompt": "2+2=",
        "answer": "4",
        "completion": "five",
        "messages": [ASKED, {"role": "assistant", "content": "five"}],
        "seconds": 0.5,
    }
    if on_error == "stop":
        assert found.fatal == (
            f"environment 'guess', prompt own/3, sample 1, after turn 2 ('five'): {BROKEN[1]} "
            '(on_error = "skip_sample" would continue)'
        )
        return
    (scores,) = found.scores_P
    assert found.fatal is None
    assert scores.by_reward == {"guess": (1.0, None), "fn": (4.0, None)}
    assert scores.total_G == (weight + 4.0, 0.0)
    assert scores.turn_rewards_G == ((weight,), (0.0, 0.0))
    assert scores.skipped == ({1} if on_error == "skip_sample" else set())


def test_a_reward_of_whole_groups_sees_failed_episodes_too(own: Own) -> None:
    whole = own("def fn(completions) -> list[float]: return [float(len(c)) for c in completions]")
    group_of = Group(PROMPT, (episode(1.0), episode(failure=BROKEN)))
    (scores,) = graded([whole], [group_of], on_error="zero").scores_P
    assert scores.by_reward == {"guess": (1.0, None), "fn": (4.0, 0.0)}
    assert scores.total_G == (5.0, 0.0)
    among = own("def fn(group, completion): return float(len(group))")
    (scores,) = graded([among], [group_of], on_error="zero").scores_P
    assert scores.by_reward["fn"] == (2.0, None)


def test_an_environment_that_always_fails_ends_the_run() -> None:
    failed = Group(PROMPT, (episode(failure=BROKEN),) * 2)
    for on_error in ("zero", "skip_sample"):
        found = graded([], [failed], on_error=on_error)
        assert found.fatal == (
            f"environment 'guess', prompt own/3, sample 0, at its start: {BROKEN[1]} "
            "(all of its 2 episodes failed, so the run ends)"
        )
    assert graded([], [Group(PROMPT, failed.rollouts_G[:1])], on_error="zero").fatal is None


def test_one_that_has_worked_may_fail_for_a_small_batch() -> None:
    failed = (episode(failure=BROKEN),)
    with Grader([], [environment(on_error="zero")]) as grader:
        assert grader.score([Group(PROMPT, (episode(1.0), *failed))]).fatal is None
        assert grader.score([Group(PROMPT, failed * (GIVE_UP - 1))]).fatal is None
        assert grader.score([Group(PROMPT, failed * GIVE_UP)]).fatal is not None


def test_the_order_in_which_episodes_end_changes_nothing() -> None:
    rollouts = (episode(1.0), episode(failure=BROKEN), episode(2.0, failure=BROKEN))
    found = []
    for order in ((0, 1, 2), (2, 1, 0)):
        with Grader([], [environment()]) as grader:
            batch = grader.begin([PROMPT], 3, step=1)
            for sample in order:
                batch.add(0, sample, rollouts[sample])
            found.append(batch.wait())
    assert found[0].fatal == found[1].fatal and found[0].fatal is not None
    assert found[0].quarantine == found[1].quarantine
    assert found[0].scores_P == found[1].scores_P


def test_forgiving_skips_failed_episodes() -> None:
    failed = Group(PROMPT, (episode(failure=BROKEN),) * 2)
    found = graded([], [failed], forgiving=True)
    assert found.fatal is None and found.scores_P[0].skipped == {0, 1}


def test_a_total_that_is_too_large_is_refused() -> None:
    found = graded([], [Group(PROMPT, (episode(1e15),))], weight=10.0)
    assert found.fatal is not None and "the total of its scores is 1e+16" in found.fatal


SEES = """
import json
def sample(messages: list[dict], tokens): return float(len(json.dumps(messages)) + sum(tokens))
def whole(messages: list[list[dict[str, str]]], tokens) -> list[float]:
    return [float(len(json.dumps(m)) + sum(t)) for m, t in zip(messages, tokens, strict=True)]
"""


@pytest.mark.parametrize("name", ["sample", "whole"])
def test_rewards_get_the_conversation_and_the_sampled_tokens(own: Own, name: str) -> None:
    said = {"role": "assistant", "content": "four"}
    expected = len(json.dumps([ASKED, said])) + 2 * (5 + 6)
    (scores,) = graded([own(SEES, name)], [Group(PROMPT, (episode(0.0, 0.0),))]).scores_P
    assert scores.by_reward[name] == (expected,)


@pytest.mark.parametrize("name", ["sample", "whole"])
def test_a_plain_response_is_a_conversation_too(own: Own, name: str) -> None:
    plain = group("4")
    expected = 7 + len(
        json.dumps([{"role": "user", "content": "2+2="}, {"role": "assistant", "content": "4"}])
    )
    (scores,) = graded([own(SEES, name)], [plain]).scores_P
    assert scores.by_reward[name] == (expected,)


def test_rows_before_the_last_count_among_the_tokens(own: Own) -> None:
    whole = episode(1.0)
    split = Rollout((3,), (-0.1,), "four", False, earlier=(whole,), episode=whole.episode)
    (scores,) = graded([own(SEES, "sample")], [Group(PROMPT, (split,))]).scores_P
    (alone,) = graded([own(SEES, "sample")], [Group(PROMPT, (whole,))]).scores_P
    assert scores.by_reward["sample"][0] == (alone.by_reward["sample"][0] or 0) + 3


def test_a_wrong_annotation_of_messages_is_refused(own: Own) -> None:
    with pytest.raises(Exception, match=r"'messages' is annotated str, but the reward gets list\["):
        Grader([own("def fn(messages: str): return 1.0")])
    with pytest.raises(Exception, match="write messages: list"):
        Grader([own("def fn(messages: list[dict]) -> list[float]: return [1.0]")])
