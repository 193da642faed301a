"""A process that runs one reward: receives calls and sends their outcomes.

It is a fork of the grading server (`server.py`), so the reward is imported already.
"""

from __future__ import annotations

import asyncio
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
from drpo_cli.rewards.grading.score import ReadyReward, seed_generators


def run(reward: Reward, connection: socket.socket) -> None:
    """Sets the reward up, then answers calls until the server closes the connection."""
    secrets.guard_streams()
    seed_generators(0)
    try:
        ready = ReadyReward(reward)
    except UserError as error:
        send(connection, Ready(str(error)))
        return
    send(connection, Ready())
    try:
        if reward.is_async:
            asyncio.run(_answer_together(ready, connection))
        else:
            _answer_one_by_one(ready, connection)
    except (EOFError, ConnectionError):
        return  # the server has ended


def _answer_one_by_one(ready: ReadyReward, connection: socket.socket) -> None:
    while True:
        request: Request = receive(connection)
        send(connection, Answer(request.number, ready.outcome(request.unpack())))


async def _answer_together(ready: ReadyReward, connection: socket.socket) -> None:
    """Answers every call in a task of its own; the server sends `concurrency` at a time."""
    reader, writer = await asyncio.open_connection(sock=connection)

    async def answer(request: Request) -> None:
        outcome = await ready.outcome_async(request.unpack())
        writer.write(frame(Answer(request.number, outcome)))

    async with asyncio.TaskGroup() as tasks:
        while True:
            tasks.create_task(answer(await receive_async(reader)))
