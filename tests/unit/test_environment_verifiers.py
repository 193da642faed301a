"""The environment `verifiers`, with real environments of the package."""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from drpo_cli import plugins
from drpo_cli.environments import Action, Row, Step, ToolCall, verifiers
from drpo_cli.environments.sessions.contract import prepare
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from support.beside import HAS_VERIFIERS
from support.environments import opened, result, texts

if not HAS_VERIFIERS:
    pytest.skip("needs the package verifiers", allow_module_level=True)

GAME = Path(__file__).parents[1] / "support" / "verifiers_game.py"


def options(name: str, **more: Any) -> dict[str, Any]:
    return {"load": f"{GAME}:{name}", **more}


def rows(name: str) -> list[Row]:
    source = plugins.load("data", "verifiers")
    found = source.entry(source.Config.model_validate(options(name)))
    return [
        Row(str(i), "", tuple(one.prompt), one.answer, one.metadata) for i, one in enumerate(found)
    ]


def play(name: str, *actions: str | Action, row: Row | None = None, **more: Any) -> list[Any]:
    """What an episode shows: the first messages, then a Step for each action."""
    config = verifiers.Config.model_validate(options(name, **more))

    async def episode() -> list[Any]:
        environment = verifiers.Environment(config)
        try:
            shown: list[Any] = [
                await environment.start(row or rows(name)[0], random.Random(0)),
            ]
            for action in actions:
                what = Action(action) if isinstance(action, str) else action
                shown.append(await environment.step(what))
            return shown
        finally:
            await environment.close()

    return asyncio.run(episode())


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text} for text in texts]


def test_the_data_set_is_the_environments() -> None:
    first, second, *_ = rows("guess")
    system = {"role": "system", "content": "Play."}
    assert first.messages == (system, {"role": "user", "content": "Guess from 1 to 9."})
    assert (first.answer, second.answer) == ("7", "2")
    assert second.metadata["of_verifiers"]["info"] == {"hint": "even"}


def test_its_own_loop_is_played_and_scored() -> None:
    first, low, right = play("guess", "3", "7")
    assert [one["content"] for one in first] == ["Play.", "Guess from 1 to 9."]
    assert low == Step(said("higher (odd)"))
    assert right.observation == said("right")
    assert (right.reward, right.done) == (2.0, True)
    assert right.info == {
        "solved": 1.0,
        "num_turns": 2.0,
        "stop_condition": "has_final_env_response",
    }


@pytest.mark.parametrize(("most", "turns"), [(2, 2), (9, 3)])
def test_an_episode_is_scored_at_the_lower_limit_of_turns(most: int, turns: int) -> None:
    *_, last = play("guess", *["3"] * turns, max_turns=most)
    assert last == Step(
        [], 0.0, True, {"solved": 0.0, "num_turns": turns, "stop_condition": "max_turns_reached"}
    )


def test_one_turn() -> None:
    _, last = play("once", "7")
    assert (last.reward, last.done, last.observation) == (1.0, True, [])


def test_rows_of_another_source() -> None:
    row = Row("r", "?", ({"role": "user", "content": "?"},), "4", {"hint": "four"})
    first, low, right = play("guess", "5", "4", row=row)
    assert (first, low.observation, right.reward) == (said("?"), said("lower (four)"), 2.0)


def test_its_tools_are_called() -> None:
    (schema,) = verifiers.Environment.tools(verifiers.Config.model_validate(options("tools")))
    assert schema["function"]["name"] == "add"
    assert schema["function"]["parameters"]["required"] == ["a", "b"]
    calls = (ToolCall("add", {"a": 3, "b": 4}), ToolCall("add", {"a": "x", "b": 1}, "id"))
    _, called, unreadable, last = play(
        "tools", Action("", calls), Action("", problem="not JSON"), "7"
    )
    assert called.observation[0] == {"role": "tool", "content": "7", "tool_call_id": "call-1-0"}
    assert called.observation[1]["tool_call_id"] == "id"
    assert "can only concatenate str" in called.observation[1]["content"]
    assert unreadable == Step("not JSON")
    assert (last.reward, last.done, last.info["add_calls"]) == (1.0, True, 2.0)


@pytest.mark.parametrize(
    ("actions", "kind", "message"),
    [
        (["crash"], OSError, "its server is gone"),
        (["six"], ValueError, "invalid literal"),
        (["0", "7"], RuntimeError, "solved.*a guess of 0"),
        (["rewrite"], UserError, "rewrites the messages that the model has seen"),
    ],
)
def test_what_fails_is_a_failure_and_no_silent_0(
    actions: list[str], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        play("guess", *actions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"load": f"{GAME}:compared"}, "compares the samples"),
        ({"load": f"{GAME}:nothing"}, "its function returned NoneType"),
        ({"load": f"{GAME}:guess", "options": {"turns": 1}}, "unexpected keyword argument 'turns'"),
        ({"load": f"{GAME}:gess"}, "did you mean 'guess'"),
        ({"load": "no-such-environment"}, "No module named 'no_such_environment'"),
    ],
)
def test_what_cannot_be_used_has_a_message(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        verifiers.Environment(verifiers.Config.model_validate(options))


def test_a_tool_of_its_own_is_called_in_a_worker_process() -> None:
    config = verifiers.Config.model_validate(options("tools", workers=1))
    environment = prepare(Selected("environments", "verifiers", config))
    with opened(environment) as pool:
        assert [one["function"]["name"] for one in pool.tools(0)] == ["add"]
        session = pool.open(0, rows("tools")[1], 1)
        assert texts(result(session.first)) == ["Play.", "Guess from 1 to 5."]
        called = result(session.step(Action("", (ToolCall("add", {"a": 1, "b": 1}),))))
        assert (called.failure, texts(called)) == (None, ["2"])
        last = result(session.step(Action("2")))
        assert (last.failure, last.reward, last.done) == (None, 1.0, True)
        result(session.close())


def test_the_signals_stay_ours() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    play("once", "7")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_file_counts_from_the_spec() -> None:
    config = verifiers.Config.model_validate(
        {"load": f"./{GAME.name}:guess"}, context={"folder": GAME.parent}
    )
    assert config.load == f"{GAME}:guess"
