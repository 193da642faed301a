"""A process that runs one reward: receives calls and sends their outcomes.

It is a fork of the grading server (`server.py`), so the reward is imported already.
"""

from __future__ import annotations

import asyncio
import os
import socket

from drpo_cli import secrets
from drpo_cli.errors import UserError
from drpo_cli.rewards.grading.contract import Reward
from drpo_cli.rewards.grading.messages import (
    Answer,
    Ready,
    Request,
    frame,
    receive,
    receive_async,
    send,
)
from drpo_cli.rewards.grading.score import (
    DETAIL,
    ReadyReward,
    flush_prints,
    seed_generators,
    short,
)


def run(reward: Reward, connection: socket.socket) -> None:
    """Sets the reward up, then answers calls until the server closes the connection."""
    me = os.getpid()
    secrets.guard_streams()
    seed_generators(0)
    try:
        ready = ReadyReward(reward)
    except UserError as error:
        _finish(me)
        send(connection, Ready(short(str(error), 2 * DETAIL)))
        return
    _finish(me)
    send(connection, Ready())
    try:
        if reward.is_async:
            asyncio.run(_answer_together(ready, connection, me))
        else:
            _answer_one_by_one(ready, connection, me)
    except (EOFError, ConnectionError):
        return  # the server has ended


def _answer_one_by_one(ready: ReadyReward, connection: socket.socket, me: int) -> None:
    while True:
        request = receive(connection, Request)
        outcome = ready.outcome(request.unpack())
        _finish(me)
        send(connection, Answer(request.number, outcome))


async def _answer_together(ready: ReadyReward, connection: socket.socket, me: int) -> None:
    """Answers every call in a task of its own; the server sends `concurrency` at a time."""
    reader, writer = await asyncio.open_connection(sock=connection)

    async def answer(request: Request) -> None:
        outcome = await ready.outcome_async(request.unpack())
        _finish(me)
        writer.write(frame(Answer(request.number, outcome)))

    async with asyncio.TaskGroup() as tasks:
        while True:
            tasks.create_task(answer(await receive_async(reader, Request)))


def _finish(me: int) -> None:
    """Prints what the reward has left in buffers; ends a fork that came back from the reward."""
    if os.getpid() != me:
        os._exit(0)
    flush_prints()
