"""The environment `reasoning_gym`: several tries at a real task."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from drpo_cli import plugins
from drpo_cli.environments import Row, Step, reasoning_gym
from drpo_cli.errors import UserError
from drpo_cli.types import Problem


def problem(task: str) -> Problem:
    source = plugins.load("data", "reasoning_gym")
    found: Problem = source.entry(source.Config(task=task, size=1, seed=5))[0]
    return found


def play(task: str, *actions: str, metadata: Any = None, **options: Any) -> list[Any]:
    found = problem(task)
    chat = ({"role": "user", "content": str(found.prompt)},)
    given = found.metadata if metadata is None else metadata
    row = Row("r", str(found.prompt), chat, found.answer, given)
    environment = reasoning_gym.Environment(reasoning_gym.Config.model_validate(options))

    async def episode() -> list[Any]:
        first = await environment.start(row, random.Random(0))
        return [first, *[await environment.step(action) for action in actions]]

    return asyncio.run(episode())


def test_a_wrong_answer_may_be_corrected() -> None:
    row = problem("chain_sum")
    assert row.answer is not None
    told = {"feedback": "{score} with {left} left", "discount": 0.5}
    first, near, right = play("chain_sum", f"it is {row.answer}", row.answer, **told)
    assert first == row.prompt
    assert 0 < near.reward == near.info["score"] < 1
    assert (near.observation, near.done) == (f"{near.reward:.2f} with 2 left", False)
    assert near.reward + right.reward == 0.5  # the value of the last answer
    assert (right.observation, right.done) == ("", True)
    assert right.info == {"score": 1.0, "tries": 2}


def test_the_tries_end() -> None:
    *_, last = play("countdown", "no", "1 +", max_turns=2)
    assert last == Step("", 0.0, True, {"score": last.info["score"], "tries": 2})
    assert last.info["score"] < 1


def test_a_good_answer_is_enough() -> None:
    row = problem("chain_sum")
    _, last = play("chain_sum", f"<a>1</a> <a>{row.answer}</a>", tag="a")
    assert (last.reward, last.done) == (1.0, True)
    near = play("chain_sum", f"it is {row.answer}", solved=0.1)[-1]
    assert (near.done, 0 < near.reward < 1) == (True, True)


def test_a_row_of_another_source_is_refused() -> None:
    with pytest.raises(UserError, match="not from the data source 'reasoning_gym'"):
        play("chain_sum", "1", metadata={"level": 1})
