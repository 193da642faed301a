"""The server of environments: finds a worker for each episode, and keeps it there to its end."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from drpo_cli import processes
from drpo_cli.calls import crew, server
from drpo_cli.calls.crew import BLOCKED, LATE, Calls, Ended
from drpo_cli.calls.failures import Failure
from drpo_cli.calls.messages import Reply, Request
from drpo_cli.calls.server import Server
from drpo_cli.environments.sessions import worker
from drpo_cli.environments.sessions.contract import Environment, prepare
from drpo_cli.environments.sessions.messages import Answer
from drpo_cli.environments.sessions.schemas import own_schemas
from drpo_cli.environments.sessions.worker import CLOSED
from drpo_cli.environments.toolkit.toolbox import Toolbox
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.settings import EnvironmentSettings

_Worker = server.Worker[Answer]
OTHERS = (
    "; or another episode in the same process is the cause (`concurrency = 1` gives each its own)"
)
BEFORE = "; or an episode before it in the same process left something behind"


class _Ready(NamedTuple):
    """An environment, and the tools of its episodes: those of the spec, or its own."""

    environment: Environment
    toolbox: Toolbox | None
    schemas: tuple[dict[str, Any], ...]


def main(handle: int) -> None:
    """Has episodes played until the trainer closes the connection."""
    server.serve(handle, "environments", _prepare, _Crew, lambda ready: json.dumps(ready.schemas))


def _prepare(selected: Selected[EnvironmentSettings]) -> _Ready:
    environment, tools = prepare(selected), selected.config.tools
    if not tools:
        return _Ready(environment, None, own_schemas(environment))
    try:
        toolbox = Toolbox(tools, Path.cwd())
    except UserError as error:
        raise UserError(f"environment {environment.name!r}: {error}") from error
    return _Ready(environment, toolbox, toolbox.schemas)


class _Place:
    """A process, or one that is being started.

    worker    its result is None when the set-up failed
    episodes  that live in it
    served    that have ever lived in it
    """

    def __init__(self) -> None:
        self.worker: asyncio.Future[_Worker | None] = asyncio.get_running_loop().create_future()
        self.episodes = self.served = 0


class _Session:
    """An episode, from its `open` to its `close`.

    turn     its turn to get a place; None once it is closed before that
    one      its process, once it has one
    running  whether a call runs
    closing  whether the trainer has closed it
    """

    def __init__(self) -> None:
        self.turn: asyncio.Future[_Place | None] = asyncio.get_running_loop().create_future()
        self.place: _Place | None = None
        self.one: _Worker | None = None
        self.running = self.closing = False

    @property
    def others(self) -> bool:
        """Whether other episodes have lived in its process."""
        return self.place is not None and self.place.served > 1


class _Crew(crew.Crew[Answer]):
    """The processes of one environment, and the episodes that live in them or wait for a place.

    A process is started when an episode needs it. Episodes of an async environment are spread over
    as many processes as there are cores, then over more only where all are full.
    """

    def __init__(self, server: Server, ready: _Ready, tasks: asyncio.TaskGroup) -> None:
        environment = ready.environment
        run = partial(worker.run, environment, ready.toolbox)
        config, together = environment.config, environment.is_async
        blocked = BLOCKED if together else "" if ready.toolbox else None
        super().__init__(
            server, Calls("environment", environment.name, run, Answer, config.timeout_s, blocked)
        )
        self._tasks, self._together = tasks, together
        self._most, self._each = config.workers, config.concurrency if together else 1
        self._places: list[_Place] = []
        self._line: deque[_Session] = deque()
        self._sessions: dict[int, _Session] = {}

    def take(self, request: Request) -> None:
        """Takes a request; returns at once."""
        if request.verb == "open":
            session = self._sessions[request.session] = _Session()
            self._tasks.create_task(self._open(session, request))
        elif request.verb == "close":
            session = self._sessions.pop(request.session)
            self._tasks.create_task(self._close(session, request))
        else:
            self._tasks.create_task(self._act(self._sessions[request.session], request))

    async def _open(self, session: _Session, request: Request) -> None:
        answer = await self._try_open(session, request)
        failure = answer.failure if answer else None
        if failure and failure.kind == "crash" and session.others:
            self._leave(session)  # nothing has happened in it yet, and another may be the cause
            session.one, session.turn = None, asyncio.get_running_loop().create_future()
            answer = await self._try_open(session, request)
        if session.closing and session.one is None:
            self._leave(session)
        self.server.reply(Reply(request.number, answer, None if answer else self.problem))

    async def _try_open(self, session: _Session, request: Request) -> Answer | None:
        """The first answer of an episode; None when the environment could not be set up."""
        if self.problem is not None:
            return None
        self._line.append(session)
        self._admit()
        place = await session.turn
        one = await place.worker if place else None
        if session.closing:
            return Answer(failure=CLOSED)
        if one is None:
            return None
        session.one = one
        return await self._ask(session, one, request)

    async def _act(self, session: _Session, request: Request) -> None:
        one = session.one  # none where the set-up has failed
        answer = await self._ask(session, one, request) if one else None
        self.server.reply(Reply(request.number, answer, None if answer else self.problem))

    async def _close(self, session: _Session, request: Request) -> None:
        session.closing = True
        one, answer = session.one, Answer()
        if one is None:  # it waits for a process
            if not session.turn.done():
                session.turn.set_result(None)
        elif session.running and not self._together:
            one.end()
        elif not one.ended:
            answer = await self._ask(session, one, request)
        if one is not None:
            self._leave(session)
        self.server.reply(Reply(request.number, answer))

    async def _ask(self, session: _Session, one: _Worker, request: Request) -> Answer:
        session.running = True
        found = await self.ask(one, request)
        session.running = False
        if isinstance(found, Ended):
            failure = self._explain(found, session)
            if session.closing and request.verb != "close":
                failure = CLOSED
            found = Answer(seconds=found.seconds, failure=failure)
        size = one.prints.take()
        return found._replace(counts={**found.counts, "printed_bytes": size}) if size else found

    def _explain(self, ended: Ended, session: _Session) -> Failure:
        kind, detail = ended.failure
        if kind == "crash" and detail != LATE and session.others:
            detail += OTHERS if self._together else BEFORE
        elif kind == "timeout" and ended.innocent and self._together:
            detail += OTHERS
        return Failure(kind, detail)

    def _admit(self) -> None:
        """Gives places to the episodes that wait, in the order in which they came."""
        while self._line:
            place = None if self._line[0].turn.done() else self._find_place()
            if place is None and not self._line[0].turn.done():
                return
            session = self._line.popleft()
            if place is not None:
                session.place = place
                place.episodes += 1
                place.served += 1
                session.turn.set_result(place)

    def _find_place(self) -> _Place | None:
        """The process with the fewest episodes, or a new one; None while all are full."""
        free = [place for place in self._places if place.episodes < self._each]
        best = min(free, key=lambda place: place.episodes, default=None)
        spare = len(self._places) < self._most
        crowded = best is not None and best.episodes > 0 and len(self._places) < processes.cores()
        if (best is None or crowded) and spare:
            best = _Place()
            self._places.append(best)
            self._tasks.create_task(self._staff(best))
        return best

    async def _staff(self, place: _Place) -> None:
        one = await self.start()
        if one is not None:
            one.on_end = partial(self._vacate, place)
            place.worker.set_result(one)
            await one.listen()
            return
        self._places.remove(place)
        place.worker.set_result(None)
        for session in self._line:  # the others would fare no better
            if not session.turn.done():
                session.turn.set_result(None)

    def _vacate(self, place: _Place) -> None:
        """Takes away the place of a process that has ended."""
        self._places.remove(place)
        self._admit()

    def _leave(self, session: _Session) -> None:
        """Gives the place of an episode free."""
        if session.place is not None:
            session.place.episodes -= 1
            session.place = None
            self._admit()
