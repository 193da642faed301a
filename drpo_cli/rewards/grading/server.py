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
import os
import pickle
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from drpo_cli import plugins, processes
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.rewards.grading import worker
from drpo_cli.rewards.grading.contract import Reward, prepare
from drpo_cli.rewards.grading.messages import (
    Answer,
    Imported,
    Ready,
    Request,
    Setup,
    frame,
    receive,
    receive_async,
    send,
)
from drpo_cli.rewards.grading.score import Failure, Outcome, timeout_failure

DEAD = "its process died: killed from outside, out of memory, crashed in native code, or it exited"
BLOCKED = "; it blocked its event loop: await what waits, and do not catch the cancellation"


def main(handle: int) -> None:
    """Imports the rewards, then has calls answered until the trainer closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer acts on Ctrl-C
    trainer = socket.socket(fileno=handle)
    try:
        setup: Setup = receive(trainer)
    except (EOFError, ConnectionError):
        return  # the trainer ended before it said what to import
    try:
        rewards = _import_rewards(setup)
    except UserError as error:
        send(trainer, Imported(str(error)))
        return
    send(trainer, Imported())
    sys.stdout.flush()  # or every fork would print what the imports left in the buffer
    asyncio.run(_Server(setup, rewards, trainer).serve())


def _import_rewards(setup: Setup) -> list[Reward]:
    sys.path[:] = setup.search_path
    importlib.import_module("numpy.random")  # every worker seeds its generator
    rewards = []
    for type, options in setup.rewards:
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
        self._rewards, self._trainer = rewards, trainer
        self._killed: set[int] = set()

    async def serve(self) -> NoReturn:
        """Passes calls and answers until the trainer is gone; then ends everything."""
        reader, self._writer = await asyncio.open_connection(sock=self._trainer)
        try:
            # A bug in any task ends the others, and with its traceback the server.
            async with asyncio.TaskGroup() as tasks:
                crews = [_Crew(self, reward, tasks) for reward in self._rewards]
                with suppress(EOFError, ConnectionError):
                    while True:
                        request: Request = await receive_async(reader)
                        crews[request.reward].requests.put_nowait(request)
                self._end_workers()
                processes.exit_now(0)
        finally:
            self._end_workers()

    def answer(self, message: Answer) -> None:
        """Sends the trainer an answer."""
        self._writer.write(frame(message))

    def fork(self, reward: Reward) -> tuple[int, socket.socket]:
        """Forks a worker; returns its process id and this side of its connection."""
        for pid in list(self._killed):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._killed.discard(pid)
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            self._become_worker(reward, ours, theirs)
        theirs.close()
        return pid, ours

    def kill(self, pid: int) -> None:
        """Kills a worker and all processes in its group.

        It is waited for only later: until then no other group can get the same number.
        """
        processes.kill_group(pid)
        self._killed.add(pid)

    def _become_worker(self, reward: Reward, *pair: socket.socket) -> NoReturn:
        code = 1
        try:
            os.setsid()  # so that it can be killed together with whatever the reward starts
            processes.die_with_parent()
            ours, theirs = pair
            # Kept open here, they would hide the server's end from the others.
            for connection in (ours, self._trainer, *(w.connection for w in self.workers)):
                connection.close()
            worker.run(reward, theirs)
            code = 0
        finally:  # never back into the server's event loop
            if code != 0:
                traceback.print_exc()
            processes.exit_now(code)

    def _end_workers(self) -> None:
        for one in list(self.workers):
            one.end()


class _Worker:
    """The server's side of a worker process.

    waiting  calls without an answer, by number
    ended    killed, or dead by itself
    shared   several calls were waiting when it ended, so any of them may be the cause
    on_end   called when it ends
    """

    on_end: Callable[[], None] | None = None

    def __init__(self, server: _Server, reward: Reward) -> None:
        self._server = server
        self._writer: asyncio.StreamWriter | None = None
        self.pid, self.connection = server.fork(reward)
        self.waiting: dict[int, asyncio.Future[Outcome]] = {}
        self.ended = self.shared = False
        server.workers.add(self)

    async def set_up(self) -> Ready:
        """Waits until the reward is set up. Raises EOFError or ConnectionError when it dies."""
        self._reader, self._writer = await asyncio.open_connection(sock=self.connection)
        ready: Ready = await receive_async(self._reader)
        return ready

    async def listen(self) -> None:
        """Takes answers until the worker has ended."""
        with suppress(EOFError, ConnectionError):
            while True:
                answer: Answer = await receive_async(self._reader)
                waiting = self.waiting.pop(answer.number)
                if not waiting.done():  # else it has just timed out
                    waiting.set_result(answer.outcome or Outcome(()))
        self.end()

    async def ask(self, request: Request) -> Outcome:
        """Waits for the outcome of a call. Raises EOFError when the worker ends before."""
        if self.ended or self._writer is None:
            raise EOFError
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.waiting[request.number] = answer
        self._writer.write(frame(request))
        return await answer

    def end(self) -> None:
        """Kills it with what it started; calls that wait for an answer get an EOFError."""
        if self.ended:
            return
        self.ended, self.shared = True, len(self.waiting) > 1
        for answer in self.waiting.values():
            if not answer.done():
                answer.set_exception(EOFError())
        self._server.workers.discard(self)
        self._server.kill(self.pid)
        if self._writer is not None:
            self._writer.close()
        if self.on_end is not None:
            self.on_end()


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
                outcome = await self._ask_alone(request)
            self._server.answer(Answer(request.number, outcome, self.problem))

    async def _start(self) -> _Worker | None:
        """Starts a worker; None when its set-up failed."""
        one, limit = _Worker(self._server, self._reward), self._server.setup.setup_seconds
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
        return None

    async def _ask(self, one: _Worker, request: Request) -> Outcome | None:
        """The outcome; None when the worker ended, and may have ended because of another call."""
        began, limit = time.monotonic(), self._reward.config.timeout_s
        grace = self._server.setup.grace_seconds if self._reward.is_async else 0.0
        try:
            async with asyncio.timeout(limit + grace):
                return await one.ask(request)
        except TimeoutError:
            failure = timeout_failure(limit)
            if self._reward.is_async:
                failure = failure._replace(detail=failure.detail + BLOCKED)
        except EOFError:
            failure = Failure("crash", DEAD)
        one.end()
        return None if one.shared else Outcome((), failure, time.monotonic() - began)

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
