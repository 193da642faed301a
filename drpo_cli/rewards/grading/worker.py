"""A process that runs one reward: takes calls from a connection and sends their outcomes back.

It is a fork of the warm server (`_forkserver`) and leads a process group of its own, so that it can
be killed together with whatever the reward started.
"""

from __future__ import annotations

import asyncio
import pickle
import signal
from multiprocessing.connection import Connection
from typing import NamedTuple

from drpo_cli.errors import UserError
from drpo_cli.rewards.grading.contract import Call, Reward
from drpo_cli.rewards.grading.score import Outcome, ReadyReward, seed_generators


class Ready(NamedTuple):
    """A worker's first message: it is set up, or why it is not."""

    problem: str | None = None


class Answer(NamedTuple):
    """What became of the call of this number."""

    number: int
    outcome: Outcome


class Request(NamedTuple):
    """A call, pickled, with a number to answer by."""

    number: int
    call: bytes

    def unpacked(self) -> Call:
        """The call itself."""
        call: Call = pickle.loads(self.call)
        return call


def run(reward: Reward, connection: Connection) -> None:
    """Sets the reward up and answers calls until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's to act on
    seed_generators(0)
    try:
        ready = ReadyReward(reward)
    except UserError as error:
        connection.send(Ready(str(error)))
        return
    connection.send(Ready())
    try:
        if reward.is_async:
            asyncio.run(_serve_async(ready, connection))
        else:
            _serve(ready, connection)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the trainer is done, or gone


def _serve(ready: ReadyReward, connection: Connection) -> None:
    while True:
        request: Request = connection.recv()
        connection.send(Answer(request.number, ready.outcome(request.unpacked())))


async def _serve_async(ready: ReadyReward, connection: Connection) -> None:
    loop, closed = asyncio.get_running_loop(), asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    async def answer(request: Request) -> None:
        outcome = await ready.outcome_async(request.unpacked())
        connection.send(Answer(request.number, outcome))

    def receive() -> None:
        try:
            request: Request = connection.recv()
        except (EOFError, ConnectionResetError):
            loop.remove_reader(connection.fileno())
            closed.set()
            return
        task = loop.create_task(answer(request))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_reader(connection.fileno(), receive)
    await closed.wait()
