"""The environments of a run on this rank: opens episodes, and passes what they answer."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from concurrent.futures import Future
from functools import cache
from typing import Any

from drpo_cli.calls.pool import Pool
from drpo_cli.environments.sessions.contract import Environment
from drpo_cli.environments.sessions.messages import Act, Open
from drpo_cli.environments.sessions.messages import Answer as Answer
from drpo_cli.errors import UserError
from drpo_cli.types import Action, Row


class Environments:
    """The environments of a run, in a server and its worker processes.

    All methods may be called from any thread; a thread of the pool completes the futures. They
    raise UserError when the set-up of an environment failed, and when the server has died.
    """

    def __init__(self, environments: Sequence[Environment]) -> None:
        self._environments = environments
        server = "drpo_cli.environments.sessions.server"
        self._pool = Pool("environment", server, Answer, environments)
        self._numbers = itertools.count(1)
        self._tools = cache(self._read_tools)

    def tools(self, index: int) -> tuple[dict[str, Any], ...]:
        """The JSON Schemas of the tools that the environment with this index offers.

        Waits until the server has imported everything. Raises UserError for what cannot be a tool.
        """
        return self._tools(index)

    def open(self, index: int, row: Row, seed: int) -> Session:
        """Begins an episode of the environment with this index, once a process has room for it.

        The same row and seed give the same start. Raises UserError for a row that cannot be sent.
        """
        number = next(self._numbers)
        first = self._pool.submit(index, Open(row, seed), session=number, verb="open")
        return Session(self._pool, index, number, first)

    def close(self) -> None:
        """Ends all processes; futures that still wait get an exception."""
        self._pool.close()

    def _read_tools(self, index: int) -> tuple[dict[str, Any], ...]:
        return tuple(json.loads(self._pool.described.result()[index]))


class Session:
    """An episode: one call at a time, and a `close` in any case, also after a failure.

    first  the answer to `start`
    """

    def __init__(self, pool: Pool[Answer], index: int, number: int, first: Future[Answer]) -> None:
        self._pool, self._index, self._number = pool, index, number
        self.first = self._last = first
        self._closed: Future[Answer] | None = None

    def step(self, action: Action) -> Future[Answer]:
        """Has the environment answer an action; only once its last answer is there."""
        assert self._last.done() and self._closed is None, "one call at a time, until it is closed"
        self._last = self._pool.submit(self._index, Act(action), session=self._number, verb="act")
        return self._last

    def close(self) -> Future[Answer]:
        """Ends the episode, and returns at once. A call that runs is ended, by force if need be.

        The answer has a failure if the environment's own `close` failed, which was then printed.
        """
        if self._closed is None:
            try:
                self._closed = self._pool.submit(
                    self._index, None, session=self._number, verb="close"
                )
            except (UserError, RuntimeError):
                if self._pool.ended is None:
                    raise
                self._closed = Future()  # it has ended with the processes
                self._closed.set_result(Answer())
        return self._closed
