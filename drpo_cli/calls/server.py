"""The server: a process that imports the user's code once and forks the workers that run it.

Forking the trainer itself would copy a process that holds an engine, a device and many threads.
The server holds only the imported code and has one thread, so a worker that had to be killed is
replaced in milliseconds, however long the imports took.

Why not `multiprocessing`'s fork server or a pool library: the fork server is one per process, with
the environment of whoever started it first, and preloads modules by name only (a reward may be a
file); pebble took 190 ms to replace a worker (this server: 15 ms), does not kill what a worker
started, and gives a process one call at a time (async code needs many).
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import pickle
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from drpo_cli import plugins, processes
from drpo_cli.calls.failures import DETAIL, short
from drpo_cli.calls.forks import Forks
from drpo_cli.calls.messages import (
    GarbledError,
    Imported,
    R,
    Ready,
    Reply,
    Request,
    Setup,
    frame,
    receive,
    receive_async,
    send,
)
from drpo_cli.calls.prints import Allowance, Prints
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected

DEAD = "its process died: killed from outside, out of memory, crashed in native code, or it exited"
GARBLED = (
    "its process sent what is not an answer: its code wrote to a descriptor that is not its own"
)
T = TypeVar("T")


class Takes(Protocol):
    """Whoever gives the requests of one reward or environment to workers, and has them answered."""

    def take(self, request: Request) -> None:
        """Takes a request; returns at once."""


def serve(
    handle: int,
    kind: str,
    prepare: Callable[[Selected[Any]], T],
    make: Callable[[Server, T, asyncio.TaskGroup], Takes],
    describe: Callable[[T], str] = lambda one: "null",
) -> None:
    """Imports what the trainer has chosen, then has requests answered until it is gone.

    handle    the descriptor of the connection to the trainer
    kind      of the plugins
    prepare   gets one ready, before it is forked; raises UserError
    make      what takes its requests
    describe  what the trainer needs to know of it, as JSON
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer acts on Ctrl-C
    trainer = socket.socket(fileno=handle)
    try:
        setup = receive(trainer, Setup)
    except (EOFError, ConnectionError):
        return  # the trainer ended before it said what to import
    try:
        called = [prepare(selected) for selected in _import(setup, kind)]
    except UserError as error:
        send(trainer, Imported(short(str(error), 2 * DETAIL)))
        return
    send(trainer, Imported(None, tuple(map(describe, called))))
    sys.stdout.flush()  # or every fork would print what the imports left in the buffer
    server = Server(setup, trainer)
    asyncio.run(server.serve(lambda tasks: [make(server, one, tasks) for one in called]))


def _import(setup: Setup, kind: str) -> list[Selected[Any]]:
    sys.path[:] = pickle.loads(setup.search_path)
    importlib.import_module("numpy.random")  # every worker seeds its generator
    selected = []
    for type, options in pickle.loads(setup.chosen):
        for name in plugins.load(kind, type).imports:
            if importlib.util.find_spec(name) is not None:  # if it is missing, the plugin says so
                importlib.import_module(name)
        selected.append(Selected(kind, type, pickle.loads(options)))
    return selected


class Server:
    """Forks workers, passes requests to them and their answers to the trainer."""

    def __init__(self, setup: Setup, trainer: socket.socket) -> None:
        self.setup = setup
        self.workers: set[Worker[Any]] = set()
        self.forks = Forks(trainer)
        self._trainer = trainer

    async def serve(self, begin: Callable[[asyncio.TaskGroup], Sequence[Takes]]) -> NoReturn:
        """Passes requests and answers until the trainer is gone; then ends everything."""
        reader, self._writer = await asyncio.open_connection(sock=self._trainer)
        try:
            # A bug in any task ends the others, and with its traceback the server.
            async with asyncio.TaskGroup() as tasks:
                takers = begin(tasks)
                with suppress(EOFError, ConnectionError):
                    while True:
                        request = await receive_async(reader, Request)
                        takers[request.target].take(request)
                self._end_workers()
                processes.exit_now(0)
        finally:
            self._end_workers()

    def reply(self, message: Reply[Any]) -> None:
        """Sends the trainer an answer."""
        self._writer.write(frame(message))

    def _end_workers(self) -> None:
        for one in list(self.workers):
            one.end()
        self.forks.end()


class Worker(Generic[R]):
    """The server's side of a worker process.

    waiting   what each call without an answer expects, and its future, by number
    ended     killed, or dead by itself
    shared    several calls were waiting when it ended, so any of them may be the cause
    answered  calls that it has answered; one of them may have broken the process for the next
    why       how it ended, if by itself
    on_end    called when it ends
    """

    on_end: Callable[[], None] | None = None

    def __init__(
        self,
        server: Server,
        run: Callable[[socket.socket], None],
        outcome: type[R],
        allowance: Allowance,
    ) -> None:
        self._server, self._outcome = server, outcome
        self._writer: asyncio.StreamWriter | None = None
        self._child = server.forks.fork(run)
        self.prints = Prints(self._child.prints, allowance)
        self.waiting: dict[int, tuple[int, asyncio.Future[R]]] = {}
        self.ended = self.shared = False
        self.answered, self.why = 0, DEAD
        server.workers.add(self)

    async def set_up(self) -> Ready:
        """Waits until it is set up. Raises EOFError or ConnectionError when it dies."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._child.connection)
        ready = await receive_async(self._reader, Ready)
        self.prints.take()
        return ready

    async def listen(self) -> None:
        """Takes answers until the worker has ended, or sends what is not an answer."""
        reply: type[Reply[R]] = Reply[self._outcome]  # type: ignore[name-defined]
        try:
            while True:
                self._take(await receive_async(self._reader, reply))
        except GarbledError:
            self.why = GARBLED
        except (EOFError, ConnectionError):
            pass
        self.end()

    async def ask(self, request: Request) -> R:
        """Waits for the outcome of a call. Raises EOFError when the worker ends before."""
        if self.ended or self._writer is None:
            raise EOFError
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self.waiting[request.number] = request.expected, answer
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

    def _take(self, reply: Reply[R]) -> None:
        """Takes an answer: the code that sent it may be the user's own."""
        expected, waiting = self.waiting.pop(reply.number, (0, None))
        if waiting is None or reply.outcome is None or not reply.outcome.is_valid(expected):
            if waiting is not None:
                self.waiting[reply.number] = expected, waiting
            raise GarbledError("an answer to another question")
        self.answered += 1
        if not waiting.done():  # else it has just timed out
            waiting.set_result(reply.outcome)
