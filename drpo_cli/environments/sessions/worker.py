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
from dataclasses import dataclass
from functools import cached_property, partial
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
from drpo_cli.environments.sessions.tools import Run
from drpo_cli.environments.toolkit.toolbox import Toolbox, Tools
from drpo_cli.types import Action

MACHINERY = (__file__, _contract.__file__, _checks.__file__)
CLOSED = Failure("closed", "its episode was closed while the call ran")


def run(environment: Environment, toolbox: Toolbox | None, connection: socket.socket) -> None:
    """Plays episodes until the server closes the connection."""
    worker.run(connection, partial(_set_up, environment, toolbox), environment.is_async)


def _set_up(environment: Environment, toolbox: Toolbox | None) -> worker.Answer:
    episodes = Episodes(environment, toolbox)
    return episodes.answer_async if environment.is_async else episodes.answer


@dataclass
class _Episode:
    """An episode that is being played.

    instance  of the environment; None until it is made
    calls     made so far
    failure   of the call that ended it
    task      answers a call at the moment
    closing   that task was cancelled because the episode is to end
    """

    seed: int
    tools: Tools | None
    instance: Any = None
    calls: int = 0
    failure: Failure | None = None
    task: asyncio.Task[Any] | None = None
    closing: bool = False

    def begin(self, is_async: bool) -> None:
        """Prepares a call: its random numbers depend on the episode alone, not on the process."""
        seed_generators(zlib.crc32(f"{self.seed} {self.calls}".encode()))
        self.calls += 1
        if is_async:
            self.task = asyncio.current_task()


class Episodes:
    """The episodes of an environment that live in this process, by the number of their session."""

    def __init__(self, environment: Environment, toolbox: Toolbox | None) -> None:
        self._environment, self._toolbox = environment, toolbox
        self._living: dict[int, _Episode] = {}

    def answer(self, request: Request) -> Answer:
        """Makes a call of an environment that is not async."""
        try:
            self.answer_async(request).send(None)
        except StopIteration as finished:  # it awaits nothing, so it runs through
            answer: Answer = finished.value
            return answer
        raise AssertionError("an environment that is not async was awaited")

    async def answer_async(self, request: Request) -> Answer:
        """Makes a call; what an async environment awaits is cancelled when its time is up."""
        began = time.perf_counter()
        late = began + self._environment.config.timeout_s
        try:
            answer = await self._call(request, late)
        except RefusedError as refused:
            answer = Answer(failure=refused.failure)
        except BaseException as error:
            episode = self._living.get(request.session)
            if episode and episode.closing and isinstance(error, asyncio.CancelledError):
                answer = Answer(failure=CLOSED)
            else:
                failure = Failure("exception", explain(error, "environment", MACHINERY))
                answer = Answer(failure=failure)
        if answer.failure is not None:
            self._note(request, answer.failure)
        return answer._replace(seconds=time.perf_counter() - began)

    async def _call(self, request: Request, late: float) -> Answer:
        if request.verb == "close":
            try:
                return await self._close(self._living[request.session], late)
            finally:
                del self._living[request.session]
        if request.verb == "open":
            opening: Open = request.unpack()
            tools = self._toolbox.open() if self._toolbox else None
            episode = self._living[request.session] = _Episode(opening.seed, tools)
            return await self._open(episode, opening, late)
        episode, act = self._living[request.session], request.unpack()
        if episode.failure is not None:
            return Answer(failure=episode.failure)
        return await self._act(episode, act, late)

    async def _open(self, episode: _Episode, opening: Open, late: float) -> Answer:
        episode.begin(self._environment.is_async)
        episode.instance = self._environment.make()
        start = episode.instance.start
        value = await self._wait(start(opening.row, random.Random(opening.seed)), late)
        return _checks.opening(value, self._environment.place("start"))

    async def _act(self, episode: _Episode, act: Act, late: float) -> Answer:
        episode.begin(self._environment.is_async)
        action = act.action
        if episode.tools is None:
            return await self._step(episode, action, late)
        if action.problem is not None:
            message = {"role": "user", "content": action.problem}
            return Answer((message,), counts={"parse_errors": 1})
        if not action.calls:
            return await self._step(episode, action, late)
        run = Run(episode.tools, action.calls)
        tools = self._use_tools(run, late)
        await tools if self._environment.is_async else self._runner.run(tools)
        answer = run.answer()
        if run.submitted is None:
            return answer
        final = await self._step(episode, Action(run.submitted, truncated=action.truncated), late)
        return final._replace(
            messages=answer.messages + final.messages,
            done=True,
            info={**final.info, "submitted": run.submitted},
            counts=answer.counts,
            errors=answer.errors,
        )

    async def _step(self, episode: _Episode, action: Action, late: float) -> Answer:
        what = action if self._environment.whole_action else action.text
        value = await self._wait(episode.instance.step(what), late)
        return _checks.answer(value, self._environment.place("step"))

    async def _close(self, episode: _Episode, late: float) -> Answer:
        running = episode.task
        if running is not None and not running.done():
            episode.closing = True
            running.cancel()
            await asyncio.wait([running])
        try:
            close = getattr(episode.instance, "close", None)
            if close is not None:
                episode.begin(self._environment.is_async)
                await self._wait(close(), late)
        finally:
            if episode.tools is not None:
                episode.tools.close()
        return Answer()

    async def _use_tools(self, run: Run, late: float) -> None:
        """Makes the calls of an action; the model learns which of them took too long."""
        try:
            async with asyncio.timeout(late - time.perf_counter()):
                await run.finish()
        except TimeoutError:
            run.give_up(self._environment.config.timeout_s)

    async def _wait(self, value: Any, late: float) -> Any:
        """The value, awaited where it has to be; raises RefusedError when its time is up."""
        if not (self._environment.is_async and inspect.isawaitable(value)):
            return value
        try:
            async with asyncio.timeout(late - time.perf_counter()) as limit:
                return await value
        except TimeoutError:
            if not limit.expired():  # the user's own
                raise
            failure = timeout_failure(self._environment.config.timeout_s, "environment")
            raise RefusedError(*failure) from None

    def _note(self, request: Request, failure: Failure) -> None:
        """Notes the failure of a call; that of a `close` is printed, as nobody may ask for it."""
        if request.verb == "close":
            name = self._environment.name
            sys.stderr.write(f"environment {name!r}: `close` failed: {failure.detail}\n")
        elif episode := self._living.get(request.session):
            episode.failure = failure

    @cached_property
    def _runner(self) -> asyncio.Runner:
        """Awaits tools for an environment that is not async."""
        return asyncio.Runner()
