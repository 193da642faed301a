"""The trainer's side of calls in other processes: sends requests, receives their outcomes."""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from threading import Lock, Thread
from typing import Any, Generic, Protocol

from drpo_cli import processes
from drpo_cli.calls.messages import (
    GarbledError,
    Imported,
    M,
    R,
    Reply,
    Request,
    Setup,
    receive,
    send,
)
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected

SETUP_SECONDS = 1800.0  # a reward model may have to be downloaded first
GRACE_SECONDS = 2.0
WAKE_SECONDS = 0.5
CONTINUE = "continue with --resume"
ENVIRONMENT = {
    # The workers are what runs in parallel, and a library's threads do not survive a fork.
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    # Sets of strings keep their order when a run is resumed.
    "PYTHONHASHSEED": "0",
    # Else a reward that asks at its import whether there is a GPU keeps its forks from using it.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
# Not `-m`: messages are pickled under the module's own name, which would be `__main__`.
_SERVER = "from {} import main; main({})"


class Called(Protocol):
    """A reward or environment as a spec selects it."""

    @property
    def name(self) -> str:
        """Its name in messages."""

    @property
    def selected(self) -> Selected[Any]:
        """Type and options."""


class Pool(Generic[R]):
    """The server of several rewards or environments. Closed, it leaves no process behind.

    noun     what it calls, in messages: a reward
    server   the module whose `main` the server runs
    outcome  what a call gives
    called   the rewards or environments

    ended      why no call can be made any more
    described  what the server says of each, as JSON, once it has imported them; or its exception

    Submitting works from any thread; a thread of the pool completes the futures.
    """

    def __init__(self, noun: str, server: str, outcome: type[R], called: Sequence[Called]) -> None:
        self._noun, self._outcome, self._called = noun, outcome, called
        self._connection, theirs = socket.socketpair()
        with theirs:
            self._server = processes.start(
                [sys.executable, "-c", _SERVER.format(server, theirs.fileno())],
                environment=ENVIRONMENT,
                inherit=[theirs.fileno()],
            )
        chosen = [(one.selected.type, pickle.dumps(one.selected.config)) for one in called]
        with suppress(BrokenPipeError, ConnectionError):  # the thread reports a dead server
            imports = pickle.dumps(sys.path), pickle.dumps(chosen)
            send(self._connection, Setup(*imports, SETUP_SECONDS, GRACE_SECONDS))
        self._lock = Lock()
        self._waiting: dict[int, tuple[int, Future[R]]] = {}
        self._number = 0
        self._imported = self._closing = False
        self.ended: Exception | None = None
        self.described: Future[tuple[str, ...]] = Future()
        self._thread = Thread(target=self._receive, name=f"drpo-{noun}s", daemon=True)
        self._thread.start()

    def submit(
        self, index: int, call: object, expected: int = 1, session: int = 0, verb: str = ""
    ) -> Future[R]:
        """Sends a call of the reward or environment with this index; see `Request`.

        The future raises UserError if its set-up failed. Raises UserError for a call that cannot
        be pickled, and when the server has ended.
        """
        pickled = self._pickle(index, call)
        future: Future[R] = Future()
        future.set_running_or_notify_cancel()  # it cannot be cancelled any more
        with self._lock:
            if self.ended is not None:
                raise self.ended
            self._number += 1
            self._waiting[self._number] = expected, future
            request = Request(self._number, index, expected, pickled, session, verb)
            with suppress(BrokenPipeError, ConnectionError):  # the thread reports a dead server
                send(self._connection, request)
        return future

    def close(self) -> None:
        """Ends the server and all workers; futures that still wait get an exception."""
        self._closing = True
        if self._imported:
            with suppress(OSError):  # it is gone already
                self._connection.shutdown(socket.SHUT_WR)
        elif self._server.poll() is None:  # it does not listen yet, and has no workers
            processes.kill_group(self._server.pid)
        self._thread.join()
        self._server.wait()
        self._connection.close()

    def _pickle(self, index: int, call: object) -> bytes:
        try:
            return pickle.dumps(call)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self._noun} {self._called[index].name!r}: its arguments cannot be sent to its "
                f"process: {error}",
                "make the row's columns plain values",
            ) from error

    def _receive(self) -> None:
        ended: Exception = RuntimeError(f"the {self._noun}s' pool has ended")
        try:
            imported = self._next(Imported)
            if imported.problem is not None:
                ended = UserError(imported.problem)
                return
            if len(imported.described) != len(self._called):
                raise GarbledError("it describes something else")
            self._imported = True
            self.described.set_result(imported.described)
            reply: type[Reply[R]] = Reply[self._outcome]  # type: ignore[name-defined]
            while True:
                self._complete(self._next(reply))
        except GarbledError as error:
            processes.kill_group(self._server.pid)
            ended = UserError(f"the {self._noun}s' process is out of order: {error}", CONTINUE)
        except (EOFError, ConnectionError):
            if not self._closing:
                ended = self._explain_end()
        finally:  # whatever happened, nobody may wait for ever
            with self._lock:
                self.ended = ended
            if not self.described.done():
                self.described.set_exception(ended)
            for _, future in self._waiting.values():
                future.set_exception(ended)

    def _next(self, kind: type[M]) -> M:
        """Waits for a message. Continues the server when the user's code has stopped it."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        while not poll.poll(1000 * WAKE_SECONDS):
            with suppress(ChildProcessError):  # it has been waited for
                if processes.LINUX and os.waitid(
                    os.P_PID, self._server.pid, os.WSTOPPED | os.WNOHANG
                ):
                    os.kill(self._server.pid, signal.SIGCONT)
        return receive(self._connection, kind)

    def _complete(self, reply: Reply[R]) -> None:
        expected, future = self._waiting.get(reply.number, (0, None))
        outcome, problem = reply.outcome, reply.problem
        if future is None or not (problem or (outcome and outcome.is_valid(expected))):
            raise GarbledError("an answer to another question")
        del self._waiting[reply.number]
        if problem is not None:
            future.set_exception(UserError(problem))
        elif outcome is not None:
            future.set_result(outcome)

    def _explain_end(self) -> UserError:
        what = f"the {self._noun}s' process ended with code {self._server.wait()}"
        if not self._imported:
            return UserError(f"{what} while it imported them")
        return UserError(f"{what}: killed from outside, or out of memory", CONTINUE)
