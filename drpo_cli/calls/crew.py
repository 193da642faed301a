"""The workers of one reward or environment: starts them, and limits the time of their calls."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Generic, NamedTuple

from drpo_cli.calls.failures import Failure, timeout_failure
from drpo_cli.calls.messages import R, Request
from drpo_cli.calls.prints import Allowance
from drpo_cli.calls.server import DEAD, Server, Worker

BLOCKED = "; it blocked its event loop: await what waits, and do not catch the cancellation"
LATE = "its process was ended, because another call in it took longer than timeout_s"


class Ended(NamedTuple):
    """A worker ended before it answered a call.

    seconds   since the call began
    innocent  another call may be the cause: one that ran at the same time, or before
    """

    failure: Failure
    seconds: float
    innocent: bool


class Calls(NamedTuple, Generic[R]):
    """How the calls of one reward or environment are made.

    noun     of its kind, in messages: a reward
    name     its own
    run      what a worker runs
    outcome  what a call gives
    limit    most seconds of a call
    blocked  what to say of a call that did not end by itself when its time was up; None where
             calls cannot do that
    """

    noun: str
    name: str
    run: Callable[[socket.socket], None]
    outcome: type[R]
    limit: float
    blocked: str | None


class Crew(Generic[R]):
    """Starts workers for the calls of one reward or environment, and asks them.

    problem  why it could not be set up
    """

    def __init__(self, server: Server, calls: Calls[R]) -> None:
        self.server, self.calls = server, calls
        self.problem: str | None = None
        self._who = f"{calls.noun} {calls.name!r}"
        self._allowance = Allowance(self._who)

    async def start(self) -> Worker[R] | None:
        """Starts a worker; None when its set-up failed."""
        one = Worker(self.server, self.calls.run, self.calls.outcome, self._allowance)
        limit = self.server.setup.setup_seconds
        try:
            async with asyncio.timeout(limit):
                problem = (await one.set_up()).problem
        except TimeoutError:
            problem = f"{self._who}: its set-up took longer than {limit:g} seconds; make it faster"
        except (EOFError, ConnectionError):
            problem = f"{self._who}: {DEAD} in its set-up"
        if problem is None:
            return one
        self.problem = problem
        one.end()
        one.prints.take()
        return None

    async def ask(self, one: Worker[R], request: Request) -> R | Ended:
        """The outcome of a call. The worker is ended when the call takes too long."""
        began, limit = time.monotonic(), self.calls.limit
        grace = 0.0 if self.calls.blocked is None else self.server.setup.grace_seconds
        try:
            async with asyncio.timeout(limit + grace):
                return await one.ask(request)
        except TimeoutError:
            failure = timeout_failure(limit, self.calls.noun)
            failure = failure._replace(detail=failure.detail + (self.calls.blocked or ""))
            one.why = LATE
            one.end()
            innocent = one.shared
        except EOFError:
            failure = Failure("crash", one.why)
            innocent = one.shared or one.answered > 0
        return Ended(failure, time.monotonic() - began, innocent)
