"""The grading server: gives each call to any worker of its reward that is free."""

from __future__ import annotations

import asyncio
import socket
from functools import partial

from drpo_cli.calls import crew, server, worker
from drpo_cli.calls.crew import BLOCKED, Calls, Ended
from drpo_cli.calls.messages import Reply, Request
from drpo_cli.calls.server import Server
from drpo_cli.rewards.grading.contract import Reward, prepare
from drpo_cli.rewards.grading.score import Outcome, ReadyReward

_Worker = server.Worker[Outcome]


def main(handle: int) -> None:
    """Has calls of rewards answered until the trainer closes the connection."""
    server.serve(handle, "rewards", prepare, _Crew)


def _run(reward: Reward, connection: socket.socket) -> None:
    worker.run(connection, partial(_set_up, reward), reward.is_async)


def _set_up(reward: Reward) -> worker.Answer:
    ready = ReadyReward(reward)
    call = ready.outcome_async if reward.is_async else ready.outcome
    return lambda request: call(request.unpack())


class _Place:
    """A place for one worker at a time: the current one, or the next once it is set up.

    worker  its result is None when the set-up failed
    """

    def __init__(self) -> None:
        self.vacate()

    def vacate(self) -> None:
        """Takes the worker that has ended away: its calls to come wait for the next."""
        self.worker: asyncio.Future[_Worker | None] = asyncio.get_running_loop().create_future()


class _Crew(crew.Crew[Outcome]):
    """The workers of one reward and the calls that wait for them."""

    def __init__(self, server: Server, reward: Reward, tasks: asyncio.TaskGroup) -> None:
        run, config = partial(_run, reward), reward.config
        blocked = BLOCKED if reward.is_async else None
        super().__init__(
            server, Calls("reward", reward.name, run, Outcome, config.timeout_s, blocked)
        )
        self._together = reward.is_async
        self._requests: asyncio.Queue[Request] = asyncio.Queue()
        self._tasks = tasks
        self._one_alone = asyncio.Lock()
        places = [_Place() for _ in range(config.workers)]
        for place in places:
            tasks.create_task(self._staff(place))
        for _ in range(config.concurrency if reward.is_async else 1):
            for place in places:
                tasks.create_task(self._answer_calls(place))

    def take(self, request: Request) -> None:
        """Takes a call; returns at once."""
        self._requests.put_nowait(request)

    async def _staff(self, place: _Place) -> None:
        """Keeps a worker at the place: starts the next when one has ended."""
        while (one := await self.start()) is not None:
            one.on_end = place.vacate
            place.worker.set_result(one)
            await one.listen()
        place.worker.set_result(None)

    async def _answer_calls(self, place: _Place) -> None:
        """Gives one call at a time to the worker of the place."""
        while True:
            request = await self._requests.get()
            one = await place.worker
            outcome = await self._ask(one, request) if one else None
            if outcome is None and self.problem is None:  # another call may have ended the worker
                if self._together:
                    outcome = await self._ask_alone(request)
                elif (one := await place.worker) is not None:  # new, and nothing else runs in it
                    outcome = await self._ask(one, request)
            self.server.reply(Reply(request.number, outcome, self.problem))

    async def _ask(self, one: _Worker, request: Request) -> Outcome | None:
        """The outcome; None when the worker ended, and may have ended because of another call."""
        found = await self.ask(one, request)
        if isinstance(found, Ended):
            if found.innocent:
                return None
            found = Outcome((), found.failure, found.seconds)
        return _count_prints(found, one)

    async def _ask_alone(self, request: Request) -> Outcome | None:
        """The outcome of a call in a worker that runs nothing else."""
        async with self._one_alone:
            one = await self.start()
            if one is None:
                return None
            listening = self._tasks.create_task(one.listen())
            outcome = await self._ask(one, request)
            one.end()
            await listening
            return outcome


def _count_prints(outcome: Outcome, one: _Worker) -> Outcome:
    size = one.prints.take()
    return outcome._replace(counts={**outcome.counts, "printed_bytes": size}) if size else outcome
