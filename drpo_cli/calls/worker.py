"""A process that runs the user's code: receives requests and sends their outcomes.

It is a fork of the server (`server.py`), so the code is imported already.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

from drpo_cli import secrets
from drpo_cli.calls.failures import DETAIL, flush_prints, seed_generators, short
from drpo_cli.calls.messages import (
    Ready,
    Reply,
    Request,
    frame,
    receive,
    receive_async,
    send,
)
from drpo_cli.errors import UserError

Answer = Callable[[Request], Any]
"""The user's code, set up in this process: makes a call and returns its outcome, or an awaitable of
it."""


def run(connection: socket.socket, set_up: Callable[[], Answer], together: bool) -> None:
    """Sets the code up, then answers requests until the server closes the connection.

    set_up    raises UserError
    together  every request is answered in a task of its own, not one after the other
    """
    me = os.getpid()
    secrets.guard_streams()
    seed_generators(0)
    try:
        answer = set_up()
    except UserError as error:
        _finish(me)
        send(connection, Ready(short(str(error), 2 * DETAIL)))
        return
    _finish(me)
    send(connection, Ready())
    try:
        if together:
            asyncio.run(_answer_together(answer, connection, me))
        else:
            _answer_one_by_one(answer, connection, me)
    except (EOFError, ConnectionError):
        return  # the server has ended


def _answer_one_by_one(answer: Answer, connection: socket.socket, me: int) -> None:
    while True:
        request = receive(connection, Request)
        outcome = answer(request)
        _finish(me)
        send(connection, Reply(request.number, outcome))


async def _answer_together(answer: Answer, connection: socket.socket, me: int) -> None:
    reader, writer = await asyncio.open_connection(sock=connection)

    async def send_answer(request: Request) -> None:
        outcome = await answer(request)
        _finish(me)
        writer.write(frame(Reply(request.number, outcome)))

    async with asyncio.TaskGroup() as tasks:
        while True:
            tasks.create_task(send_answer(await receive_async(reader, Request)))


def _finish(me: int) -> None:
    """Prints what the code has left in buffers; ends a fork that came back from it."""
    if os.getpid() != me:
        os._exit(0)
    flush_prints()
