"""The grading server: a process that imports the rewards once and forks their workers.

Forking the trainer itself would copy a process that holds an engine, a device and many threads.
The server holds only the imported rewards and has one thread, so a worker that had to be killed is
replaced in milliseconds, however long the imports took.

Why not `multiprocessing`'s fork server or a pool library: the fork server is one per process, with
the environment of whoever started it first, and preloads modules by name only (a reward may be a
file); pebble took 190 ms to replace a worker (this server: 15 ms), does not kill what a worker
started, and gives a process one call at a time (async rewards need many).
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NoReturn

from drpo_cli import plugins, processes
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.rewards.grading import worker
from drpo_cli.rewards.grading.contract import Reward, prepare
from drpo_cli.rewards.grading.forks import Forks
from drpo_cli.rewards.grading.messages import (
    Answer,
    GarbledError,
    Imported,
    Ready,
    Request,
    Setup,
    frame,
    receive,
    receive_async,
    send,
)
from drpo_cli.rewards.grading.prints import Allowance, Prints
from drpo_cli.rewards.grading.score import DETAIL, Failure, Outcome, short, timeout_failure

DEAD = "its process died: killed from outside, out of memory, crashed in native code, or it exited"
GARBLED = (
    "its process sent what is not an answer: its code wrote to a descriptor that is not its own"
)
BLOCKED = "; it blocked its event loop: await what waits, and do not catch the cancellation"


def main(handle: int) -> None:
    """Imports the rewards, then has calls answered until the trainer closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer acts on Ctrl-C
    trainer = socket.socket(fileno=handle)
    try:
        setup = receive(trainer, Setup)
    except (EOFError, ConnectionError):
        return  # the trainer ended before it said what to import
    try:
        rewards = _import_rewards(setup)
    except UserError as error:
        send(trainer, Imported(short(str(error), 2 * DETAIL)))
        return
    send(trainer, Imported())
    sys.stdout.flush()  # or every fork would print what the imports left in the buffer
    asyncio.run(_Server(setup, rewards, trainer).serve())


def _import_rewards(setup: Setup) -> list[Reward]:
    sys.path[:] = pickle.loads(setup.search_path)
    importlib.import_module("numpy.random")  # every worker seeds its generator
    rewards = []
    for type, options in pickle.loads(setup.rewards):
        for name in plugins.load("rewards", type).imports:
            if importlib.util.find_spec(name) is not None:  # if it is missing, the reward says so
                importlib.import_module(name)
        rewards.append(prepare(Selected("rewards", type, pickle.loads(options))))
    return rewards


class _Server:
    """Forks workers, passes calls to them and their answers to the trainer."""

    def __init__(self, setup: Setup, rewards: list[Reward], trainer: socket.socket) -> None:
        self.setup = setup
        self.workers: set[_Worker] = set()
        self.forks = Forks(trainer)
        self._rewards, self._trainer = rewards, trainer

    async def serve(self) -> NoReturn:
        """Passes calls and answers until the trainer is gone; then ends everything."""
        reader, self._writer = await asyncio.open_connection(sock=self._trainer)
        try:
            # A bug in any task ends the others, and with its traceback the server.
            async with asyncio.TaskGroup() as tasks:
                crews = [_Crew(self, reward, tasks) for reward in self._rewards]
                with suppress(EOFError, ConnectionError):
                    while True:
                        request = await receive_async(reader, Request)
                        crews[request.reward].requests.put_nowait(request)
                self._end_workers()
                processes.exit_now(0)
        finally:
            self._end_workers()

    def answer(self, message: Answer) -> None:
        """Sends the trainer an answer."""
        self._writer.write(frame(message))

    def _end_workers(self) -> None:
        for one in list(self.workers):
            one.end()
        self.forks.end()


class _Worker:
    """The server's side of a worker process.

    waiting   the samples and the future of each call without an answer, by number
    ended     killed, or dead by itself
    shared    several calls were waiting when it ended, so any of them may be the cause
    answered  calls that it has answered; one of them may have broken the process for the next
    why       how it ended, if by itself
    on_end    called when it ends
    """

    on_end: Callable[[], None] | None = None

    def __init__(self, server: _Server, reward: Reward, allowance: Allowance) -> None:
        self._server = server
        self._writer: asyncio.StreamWriter | None = None
        self._child = server.forks.fork(partial(worker.run, reward))
        self.prints = Prints(self._child.prints, allowance)
        self.waiting: dict[int, tuple[int, asyncio.Future[Outcome]]] = {}
        self.ended = self.shared = False
        self.answered, self.why = 0, DEAD
        server.workers.add(self)

    async def set_up(self) -> Ready:
        """Waits until the reward is set up. Raises EOFError or ConnectionError when it dies."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._child.connection)
        ready = await receive_async(self._reader, Ready)
        self.prints.take()
        return ready

    async def listen(self) -> None:
        """Takes answers until the worker has ended, or sends what is not an answer."""
        try:
            while True:
                self._take(await receive_async(self._reader, Answer))
        except GarbledError:
            self.why = GARBLED
        except (EOFError, ConnectionError):
            pass
        self.end()

    async def ask(self, request: Request) -> Outcome:
        """Waits for the outcome of a call. Raises EOFError when the worker ends before."""
        if self.ended or self._writer is None:
            raise EOFError
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.waiting[request.number] = request.samples, answer
        self._writer.write(frame(request))
        return await answer

    def end(self) -> None:
        """Kills it with what it started; calls that wait for an answer get an EOFError."""
        if self.ended:
            return
        self.ended, self.shared = True, len(self.waiting) > 1
        for _, answer in self.waiting.values():
            if not answer.done():
                answer.set_exception(EOFError())
        self._server.workers.discard(self)
        self._server.forks.kill(self._child.pid)
        self.prints.close()
        if self._writer is not None:
            self._writer.close()
        if self.on_end is not None:
            self.on_end()

    def _take(self, answer: Answer) -> None:
        """Takes an answer: the code that sent it may be the reward's own."""
        samples, waiting = self.waiting.pop(answer.number, (0, None))
        if waiting is None or answer.outcome is None or not answer.outcome.is_valid(samples):
            if waiting is not None:
                self.waiting[answer.number] = samples, waiting
            raise GarbledError("an answer to another question")
        self.answered += 1
        if not waiting.done():  # else it has just timed out
            waiting.set_result(answer.outcome)


class _Place:
    """A place for one worker at a time: the current one, or the next once it is set up.

    worker  its result is None when the set-up failed
    """

    def __init__(self) -> None:
        self.vacate()

    def vacate(self) -> None:
        """Takes the worker that has ended away: its calls to come wait for the next."""
        self.worker: asyncio.Future[_Worker | None] = asyncio.get_running_loop().create_future()


class _Crew:
    """The workers of one reward and the calls that wait for them.

    problem  why the reward could not be set up
    """

    def __init__(self, server: _Server, reward: Reward, tasks: asyncio.TaskGroup) -> None:
        self.requests: asyncio.Queue[Request] = asyncio.Queue()
        self.problem: str | None = None
        self._server, self._reward, self._tasks = server, reward, tasks
        self._one_alone = asyncio.Lock()
        self._allowance = Allowance(reward.name)
        places = [_Place() for _ in range(reward.config.workers)]
        for place in places:
            tasks.create_task(self._staff(place))
        for _ in range(reward.config.concurrency if reward.is_async else 1):
            for place in places:
                tasks.create_task(self._answer_calls(place))

    async def _staff(self, place: _Place) -> None:
        """Keeps a worker at the place: starts the next when one has ended."""
        while (one := await self._start()) is not None:
            one.on_end = place.vacate
            place.worker.set_result(one)
            await one.listen()
        place.worker.set_result(None)

    async def _answer_calls(self, place: _Place) -> None:
        """Gives one call at a time to the worker of the place."""
        while True:
            request = await self.requests.get()
            one = await place.worker
            outcome = await self._ask(one, request) if one else None
            if outcome is None and self.problem is None:  # another call may have ended the worker
                if self._reward.is_async:
                    outcome = await self._ask_alone(request)
                elif (one := await place.worker) is not None:  # new, and nothing else runs in it
                    outcome = await self._ask(one, request)
            self._server.answer(Answer(request.number, outcome, self.problem))

    async def _start(self) -> _Worker | None:
        """Starts a worker; None when its set-up failed."""
        one = _Worker(self._server, self._reward, self._allowance)
        limit = self._server.setup.setup_seconds
        name = f"reward {self._reward.name!r}"
        try:
            async with asyncio.timeout(limit):
                problem = (await one.set_up()).problem
        except TimeoutError:
            problem = f"{name}: its set-up took longer than {limit:g} seconds; make it faster"
        except (EOFError, ConnectionError):
            problem = f"{name}: {DEAD} in its set-up"
        if problem is None:
            return one
        self.problem = problem
        one.end()
        one.prints.take()
        return None

    async def _ask(self, one: _Worker, request: Request) -> Outcome | None:
        """The outcome; None when the worker ended, and may have ended because of another call."""
        began, limit = time.monotonic(), self._reward.config.timeout_s
        grace = self._server.setup.grace_seconds if self._reward.is_async else 0.0
        try:
            async with asyncio.timeout(limit + grace):
                return _count_prints(await one.ask(request), one)
        except TimeoutError:
            failure = timeout_failure(limit)
            if self._reward.is_async:
                failure = failure._replace(detail=failure.detail + BLOCKED)
            one.end()
            again = one.shared
        except EOFError:
            failure = Failure("crash", one.why)
            again = one.shared or one.answered > 0
        if again:
            return None
        return _count_prints(Outcome((), failure, time.monotonic() - began), one)

    async def _ask_alone(self, request: Request) -> Outcome | None:
        """The outcome of a call in a worker that runs nothing else."""
        async with self._one_alone:
            one = await self._start()
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
