"""A process that plays episodes of one environment: one after the other, or several if it is async.

It catches whatever the environment raises: that is the user's code. What goes out is a failure, or
an answer of plain values (`checks.py`).
"""

from __future__ import annotations

import asyncio
import inspect
import random
import socket
import sys
import time
import zlib
from functools import partial
from typing import Any

from drpo_cli.calls import worker
from drpo_cli.calls.failures import (
    Failure,
    explain,
    seed_generators,
    timeout_failure,
)
from drpo_cli.calls.messages import Request
from drpo_cli.environments.sessions import checks as _checks
from drpo_cli.environments.sessions import contract as _contract
from drpo_cli.environments.sessions.checks import RefusedError
from drpo_cli.environments.sessions.contract import Environment
from drpo_cli.environments.sessions.messages import Act, Answer, Open
from drpo_cli.types import Action

MACHINERY = (__file__, _contract.__file__, _checks.__file__)
CLOSED = Failure("closed", "its episode was closed while the call ran")


def run(environment: Environment, connection: socket.socket) -> None:
    """Plays episodes until the server closes the connection."""
    worker.run(connection, partial(_set_up, environment), environment.is_async)


def _set_up(environment: Environment) -> worker.Answer:
    episodes = Episodes(environment)
    return episodes.answer_async if environment.is_async else episodes.answer


class _Episode:
    """An episode that is being played.

    instance  of the environment; None until it is made
    calls     made so far
    failure   of the call that ended it
    task      answers a call at the moment
    closing   that task was cancelled because the episode is to end
    """

    def __init__(self, seed: int) -> None:
        self.seed, self.calls = seed, 0
        self.instance: Any = None
        self.failure: Failure | None = None
        self.task: asyncio.Task[Any] | None = None
        self.closing = False

    def seed_next(self) -> None:
        """Seeds the generators for the next call, by the episode alone and not by its process."""
        seed_generators(zlib.crc32(f"{self.seed} {self.calls}".encode()))
        self.calls += 1


class Episodes:
    """The episodes of an environment that live in this process, by the number of their session."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._living: dict[int, _Episode] = {}

    def answer(self, request: Request) -> Answer:
        """Makes a call of an environment that is not async."""
        try:
            self._answer(request).send(None)
        except StopIteration as finished:  # it awaits nothing, so it runs through
            answer: Answer = finished.value
            return answer
        raise AssertionError("an environment that is not async was awaited")

    async def answer_async(self, request: Request) -> Answer:
        """The same for an async environment, whose call is cancelled at its time-out."""
        began, limit = time.perf_counter(), self._environment.config.timeout_s
        try:
            async with asyncio.timeout(limit):
                return await self._answer(request)
        except TimeoutError:
            failure = timeout_failure(limit, "environment")
            self._note(request, failure)
            return Answer(seconds=time.perf_counter() - began, failure=failure)

    async def _answer(self, request: Request) -> Answer:
        began = time.perf_counter()
        try:
            answer = await self._call(request)
        except RefusedError as refused:
            answer = Answer(failure=refused.failure)
        except BaseException as error:
            episode = self._living.get(request.session)
            task = asyncio.current_task() if self._environment.is_async else None
            if task and task.cancelling() and not isinstance(error, Exception):
                if episode is None or not episode.closing:
                    raise  # its time is up, or the process ends
                task.uncancel()
                answer = Answer(failure=CLOSED)
            else:
                failure = Failure("exception", explain(error, "environment", MACHINERY))
                answer = Answer(failure=failure)
        if answer.failure is not None:
            self._note(request, answer.failure)
        return answer._replace(seconds=time.perf_counter() - began)

    def _note(self, request: Request, failure: Failure) -> None:
        """Notes the failure of a call; that of a `close` has nobody else to tell it."""
        if request.verb == "close":
            name = self._environment.name
            sys.stderr.write(f"environment {name!r}: `close` failed: {failure.detail}\n")
        elif episode := self._living.get(request.session):
            episode.failure = failure

    async def _call(self, request: Request) -> Answer:
        if request.verb == "open":
            return await self._open(request.session, request.unpack())
        episode = self._living[request.session]
        if request.verb == "close":
            return await self._close(self._living.pop(request.session))
        if episode.failure is not None:
            return Answer(failure=episode.failure)
        act: Act = request.unpack()
        return await self._act(episode, act.action)

    async def _open(self, session: int, opening: Open) -> Answer:
        episode = self._living[session] = _Episode(opening.seed)
        self._begin(episode)
        episode.instance = self._environment.make()
        start = episode.instance.start
        value = await self._wait(start(opening.row, random.Random(opening.seed)))
        return _checks.opening(value, self._environment.place("start"))

    async def _act(self, episode: _Episode, action: Action) -> Answer:
        self._begin(episode)
        what = action if self._environment.whole_action else action.text
        value = await self._wait(episode.instance.step(what))
        return _checks.answer(value, self._environment.place("step"))

    async def _close(self, episode: _Episode) -> Answer:
        running = episode.task
        if running is not None and not running.done() and running is not asyncio.current_task():
            episode.closing = True
            running.cancel()
            await asyncio.wait([running])
        close = getattr(episode.instance, "close", None)
        if close is not None:
            self._begin(episode)
            await self._wait(close())
        return Answer()

    def _begin(self, episode: _Episode) -> None:
        """Prepares a call."""
        episode.seed_next()
        if self._environment.is_async:
            episode.task = asyncio.current_task()

    async def _wait(self, value: Any) -> Any:
        """The value, awaited where it has to be."""
        return await value if self._environment.is_async and inspect.isawaitable(value) else value
