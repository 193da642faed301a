"""Episodes in worker processes: what they answer, where they live, and what is left of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from drpo_cli.environments.sessions.pool import Session
from drpo_cli.errors import UserError
from drpo_cli.types import Action, ToolCall
from support.environments import Own, opened, play, result, row, texts

COUNT = """
import os
class Env:
    {prefix}def start(self, row, rng):
        self.said = [row.prompt, str(rng.randint(0, 10**9))]
        return " ".join(self.said)
    {prefix}def step(self, action: str) -> Step:
        self.said.append(action)
        done = action == "end"
        return Step(" ".join(self.said), len(self.said), done, {{"pid": os.getpid()}})
"""


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return Own(tmp_path)


@pytest.mark.parametrize("prefix", ["", "async "])
def test_an_episode_keeps_its_state_and_shares_its_process(own: Own, prefix: str) -> None:
    with opened(own(COUNT.format(prefix=prefix), workers=2)) as pool:
        one, two = pool.open(0, row("one"), 1), pool.open(0, row("two"), 2)
        first, *answers = play(one, "a", "end")
        assert texts(first)[0].startswith("one ") and first.reward == 0.0 and not first.done
        assert [answer.reward for answer in answers] == [3.0, 4.0]
        assert [answer.done for answer in answers] == [False, True]
        assert answers[1].messages == ({"role": "user", "content": texts(first)[0] + " a end"},)
        assert texts(play(two, "b")[1]) == [texts(result(two.first))[0] + " b"]
        assert result(one.close()).failure is result(two.close()).failure is None
        three = pool.open(0, row("one"), 1)
        again = play(three, "a", "end")
        assert [texts(one) for one in again] == [texts(one) for one in (first, *answers)]
        assert {answers[0].info["pid"], again[1].info["pid"]} - {
            one.info["pid"] for one in (*answers, *again[1:])
        } == set()
        three.close()


@pytest.mark.parametrize("prefix", ["", "async "])
def test_two_hundred_episodes_in_four_processes(own: Own, prefix: str) -> None:
    environment = own(COUNT.format(prefix=prefix), workers=4, concurrency=3)
    pids: set[int] = set()
    with opened(environment) as pool:
        sessions = [pool.open(0, row(f"row {n}"), n) for n in range(200)]
        for n, session in enumerate(sessions):
            first, *answers = play(session, "a", "b")
            assert texts(answers[-1]) == [f"{texts(first)[0]} a b"]
            assert texts(first)[0].startswith(f"row {n} ")
            pids |= {answer.info["pid"] for answer in answers}
            session.close()
    assert 1 < len(pids) <= 4
    assert isinstance(sessions[0], Session)


def test_one_call_at_a_time(own: Own) -> None:
    with opened(own(COUNT.format(prefix=""))) as pool:
        session = pool.open(0, row(), 1)
        result(session.first)
        session.close()
        with pytest.raises(AssertionError, match="one call at a time"):
            session.step(Action("a"))


TOOLS = """
class Env:
    @staticmethod
    def tools(config):
        {body}
    def start(self, row, rng):
        return "go"
    def step(self, action: Action) -> Step:
        return Step(f"{{action.calls[0].name}} {{action.calls[0].arguments['n']}}")
"""


def test_an_environment_may_bring_its_own_tools(own: Own) -> None:
    schema = '{"type": "function", "function": {"name": "double", "parameters": {}}}'
    with opened(own(TOOLS.format(body=f"return [{schema}]"))) as pool:
        assert [one["function"]["name"] for one in pool.tools(0)] == ["double"]
        session = pool.open(0, row(), 1)
        result(session.first)
        called = result(session.step(Action("", (ToolCall("double", {"n": 2}),))))
        assert texts(called) == ["double 2"]
        session.close()


@pytest.mark.parametrize(
    ("body", "options", "message"),
    [
        (
            "return [{}]",
            {"tools": ["calculator"]},
            "it has tools of its own; remove `tools`",
        ),
        ("return 1 / 0", {}, "'Env': its `tools`: ZeroDivisionError.*e0.py"),
    ],
)
def test_wrong_tools_of_its_own(
    own: Own, body: str, options: dict[str, object], message: str
) -> None:
    with (
        opened(own(TOOLS.format(body=body), **options)) as pool,
        pytest.raises(UserError, match=message),
    ):
        pool.tools(0)
