"""The environment `tools`, played in its processes with the built-in tools."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from drpo_cli import plugins
from drpo_cli.environments.sessions.contract import prepare
from drpo_cli.environments.sessions.pool import Answer, Environments, Session
from drpo_cli.environments.tools import Config
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.sandbox.run import find_backend
from drpo_cli.types import Action, Message, Row, ToolCall

PATIENT_S = 60.0


@pytest.fixture(scope="module")
def environments() -> Iterator[Environments]:
    try:
        find_backend("auto")
        tools: tuple[str, ...] = ("calculator", "python: seconds=20", "submit")
    except UserError:
        tools = ("calculator", "submit")
    config = Config(tools=tools, workers=2)
    found = Environments([prepare(Selected("environments", "tools", config))])
    yield found
    found.close()


def act(session: Session, *calls: ToolCall, text: str = "") -> Answer:
    answer = session.step(Action(text, calls)).result(PATIENT_S)
    assert answer.failure is None
    return answer


def test_turns_with_calls_go_on_and_one_without_ends(environments: Environments) -> None:
    names = [schema["function"]["name"] for schema in environments.tools(0)]
    assert names[0] == "calculator" and names[-1] == "submit"
    session = environments.open(0, Row("1", "What is 6 * 7?"), seed=3)
    assert [m["content"] for m in session.first.result(PATIENT_S).messages] == ["What is 6 * 7?"]
    first = ToolCall("calculator", {"expression": "6 * 7"}, "call_1")
    wrong = ToolCall("calculator", {"expresion": "6 * 7"})
    answer = act(session, first, wrong)
    assert [message["role"] for message in answer.messages] == ["tool", "tool"]
    assert answer.messages[0]["content"] == "42"
    assert "argument 'expression' is missing" in answer.messages[1]["content"]
    assert not answer.done
    assert answer.counts["tool_calls"] == 2 and answer.counts["tool_errors"] == 1
    final = act(session, text="It is 42.")
    assert final.done and final.reward == 0 and final.messages == ()
    session.close()


def test_a_chat_is_the_start_and_submit_the_end(environments: Environments) -> None:
    messages: tuple[Message, ...] = (
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    )
    session = environments.open(0, Row("1", "b", messages), seed=3)
    assert tuple(session.first.result(PATIENT_S).messages) == messages
    answer = act(session, ToolCall("submit", {"answer": 42}))
    assert answer.done and answer.info["submitted"] == "42"
    session.close()


def test_each_episode_has_its_own_python_session(environments: Environments) -> None:
    if len(environments.tools(0)) < 3:
        pytest.skip("no sandbox works here")
    rows = [environments.open(0, Row("1", "a"), seed) for seed in (1, 2)]
    for session in rows:
        session.first.result(PATIENT_S)
    for number, session in enumerate(rows):
        act(session, ToolCall("python", {"code": f"x = {number}"}))
    for number, session in enumerate(rows):
        answer = act(session, ToolCall("python", {"code": "x"}))
        assert answer.messages[0]["content"] == f"{number}\n"
        session.close()
    third = environments.open(0, Row("1", "a"), 3)
    third.first.result(PATIENT_S)
    assert "NameError" in act(third, ToolCall("python", {"code": "x"})).messages[0]["content"]
    third.close()


def test_it_is_built_in_and_needs_a_tool() -> None:
    assert "tools" in plugins.available("environments")
    with pytest.raises(ValidationError, match="at least 1 item"):
        Config(tools=())
