"""The environment `openenv`, against a real server of openenv-core."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from drpo_cli.environments import Row, Step, openenv
from drpo_cli.environments._openenv_client import Session
from drpo_cli.errors import UserError

if importlib.util.find_spec("openenv") is None:
    pytest.skip("needs openenv-core", allow_module_level=True)

TESTS = Path(__file__).parents[1]
ROW = Row(
    "r", "Guess.", ({"role": "user", "content": "Guess."},), metadata={"number": 7, "most": 9}
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "support.openenv_server", "2"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
    server.kill()
    server.wait()


def config(url: str, **options: Any) -> openenv.Config:
    known = {"field": "guess", "convert": "integer", "observation": "hint"}
    return openenv.Config.model_validate({"url": url, **known, **options})


def play(config: openenv.Config, *actions: str, row: Row = ROW, seed: int = 1) -> list[Any]:
    """What an episode shows: the first observation, then a Step for each action."""

    async def episode() -> list[Any]:
        environment = openenv.Environment(config)
        try:
            shown: list[Any] = [await environment.start(row, random.Random(seed))]
            for action in actions:
                shown.append(await environment.step(action))
            return shown
        finally:
            await environment.close()

    return asyncio.run(episode())


def test_an_episode_is_played_on_the_server(url: str) -> None:
    first, low, invalid, refused, right = play(
        config(url, reset_from=["number"]), "3", "three", "333", "7"
    )
    assert first == "Guess.\n\nA number from 1 to 100."
    assert low == Step("higher", 0.0, False, {"invalid": 0})
    assert invalid.observation == "Invalid action: write a whole number, and nothing else"
    assert refused.observation.startswith("Invalid action: guess: Input should be less than")
    assert (invalid.done, refused.info) == (False, {"invalid": 2})
    assert right == Step("right", 1.0, True, {"invalid": 2})


def test_what_is_sent_and_shown_can_be_chosen(url: str) -> None:
    whole = config(
        url,
        field="",
        convert="json",
        observation=None,
        tag="do",
        action={"note": "n"},
        reset={"most": 5},
        first="observation",
    )
    first, step, unwrapped, other = play(whole, '<do>{"guess": 9}</do>', "9", "<do>9</do>")
    assert first == '{"hint": "A number from 1 to 5.", "tries": 0, "notes": {}}'
    assert step.observation == '{"hint": "lower", "tries": 1, "notes": {"last": "n"}}'
    assert unwrapped.observation == "Invalid action: write it between <do> and </do>"
    assert other.observation == "Invalid action: write a JSON object"
    assert play(config(url, first="row"))[0] == "Guess."
    chat = Row("r", "Go.", ({"role": "system", "content": "s"}, {"role": "user", "content": "Go."}))
    assert play(config(url), row=chat)[0] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "Go.\n\nA number from 1 to 100."},
    ]
    inside = config(url, observation="notes.last", first="row", action={"note": "seen"})
    assert play(inside, "1")[1].observation == "seen"


def test_samples_of_a_prompt_start_from_the_same_state(url: str) -> None:
    games = [play(config(url), "50", "50", "50", seed=seed)[1:] for seed in (1, 1)]
    assert games[0] == games[1]
    halves = {play(config(url), "50", seed=seed)[1].observation for seed in range(8)}
    assert halves >= {"higher", "lower"}


def test_the_server_is_left_when_an_episode_ends(url: str) -> None:
    for _ in range(5):  # it has places for 2
        play(config(url), "50")

    async def crowd() -> None:
        episodes = [openenv.Environment(config(url)) for _ in range(3)]
        try:
            for episode in episodes:
                await episode.start(ROW, random.Random(0))
        finally:
            for episode in episodes:
                await episode.close()

    with pytest.raises(UserError, match=r"CAPACITY_REACHED.*; lower `workers`"):
        asyncio.run(crowd())


@pytest.mark.parametrize(
    ("options", "actions", "said"),
    [
        ({"field": "number"}, (), "no field 'number'; set `field` to one of: guess, note"),
        ({"observation": "text"}, (), "no 'text'; it has: hint, notes, tries"),
        ({"reset_from": ["seed"]}, (), "no column 'seed', .* its columns are: most, number"),
        ({"reset": {"most": "x"}}, (), "'reset' with the error EXECUTION_ERROR: invalid literal"),
        ({}, ("66",), "'step' with the error EXECUTION_ERROR: 66 breaks the game"),
        ({"headers_env": {"A": "NOT_SET"}}, (), "NOT_SET, for the header A, is not set"),
    ],
)
def test_a_mistake_has_a_message(
    url: str, options: dict[str, Any], actions: tuple[str, ...], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        play(config(url, **options), *actions)


def test_a_server_that_is_not_there(url: str) -> None:
    with pytest.raises(UserError, match=r"127.0.0.1:9/schema cannot be reached .*; check that the"):
        play(config("http://127.0.0.1:9"))
    with pytest.raises(UserError, match=r"/docs/schema answered|/docs/ws cannot be reached"):
        play(config(f"{url}/docs"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"url": "localhost:8000"}, "url"),
        ({"url": "http://a", "field": ""}, 'set convert = "json"'),
        ({"url": "http://user:secret@a"}, "holds a password"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        openenv.Config.model_validate(options)


def test_a_server_that_refuses_at_once_is_heard() -> None:
    """Its word and its end may both be there before the first message is sent."""
    refusal = {"type": "error", "data": {"code": "CAPACITY_REACHED", "message": "no place"}}

    async def refuse(connection: ServerConnection) -> None:
        await connection.send(json.dumps(refusal))

    async def ask() -> None:
        async with serve(refuse, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            session = Session(f"http://127.0.0.1:{port}", {})
            session._socket = await connect(f"ws://127.0.0.1:{port}/ws")
            await session._socket.wait_closed()
            await session.step({})

    with pytest.raises(UserError, match="CAPACITY_REACHED: no place; lower `workers`"):
        asyncio.run(ask())
