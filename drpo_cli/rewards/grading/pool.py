"""The trainer's side of grading in other processes: sends calls, receives their outcomes."""

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

from drpo_cli import processes
from drpo_cli.errors import UserError
from drpo_cli.rewards.grading.contract import Call, Reward
from drpo_cli.rewards.grading.messages import (
    Answer,
    GarbledError,
    Imported,
    M,
    Request,
    Setup,
    receive,
    send,
)
from drpo_cli.rewards.grading.score import Outcome

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
_SERVER = "from drpo_cli.rewards.grading.server import main; main({})"


class Pool:
    """The grading server of several rewards. Closed, it leaves no process behind.

    Submitting works from any thread; a thread of the pool completes the futures.
    """

    def __init__(self, rewards: Sequence[Reward]) -> None:
        self._rewards = rewards
        self._connection, theirs = socket.socketpair()
        with theirs:
            self._server = processes.start(
                [sys.executable, "-c", _SERVER.format(theirs.fileno())],
                environment=ENVIRONMENT,
                inherit=[theirs.fileno()],
            )
        chosen = [(reward.selected.type, pickle.dumps(reward.config)) for reward in rewards]
        with suppress(BrokenPipeError, ConnectionError):  # the thread reports a dead server
            imports = pickle.dumps(sys.path), pickle.dumps(chosen)
            send(self._connection, Setup(*imports, SETUP_SECONDS, GRACE_SECONDS))
        self._lock = Lock()
        self._waiting: dict[int, tuple[int, Future[Outcome]]] = {}
        self._number = 0
        self._imported = self._closing = False
        self._ended: Exception | None = None
        self._thread = Thread(target=self._receive, name="drpo-rewards", daemon=True)
        self._thread.start()

    def submit(self, index: int, call: Call) -> Future[Outcome]:
        """Sends a call of the reward with this index.

        The future raises UserError if the set-up of the reward failed. Raises UserError for
        arguments that cannot be pickled, and when the server has ended.
        """
        pickled = self._pickle(index, call)
        future: Future[Outcome] = Future()
        future.set_running_or_notify_cancel()  # it cannot be cancelled any more
        with self._lock:
            if self._ended is not None:
                raise self._ended
            self._number += 1
            samples = len(call.samples)
            self._waiting[self._number] = samples, future
            with suppress(BrokenPipeError, ConnectionError):  # the thread reports a dead server
                send(self._connection, Request(self._number, index, samples, pickled))
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

    def _pickle(self, index: int, call: Call) -> bytes:
        try:
            return pickle.dumps(call)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise UserError(
                f"reward {self._rewards[index].name!r}: its arguments cannot be sent to its "
                f"process: {error}",
                "make the row's columns plain values",
            ) from error

    def _receive(self) -> None:
        ended: Exception = RuntimeError("the rewards' pool has ended")
        try:
            imported = self._next(Imported)
            if imported.problem is not None:
                ended = UserError(imported.problem)
                return
            self._imported = True
            while True:
                self._complete(self._next(Answer))
        except GarbledError as error:
            processes.kill_group(self._server.pid)
            ended = UserError(f"the rewards' process is out of order: {error}", CONTINUE)
        except (EOFError, ConnectionError):
            if not self._closing:
                ended = self._explain_end()
        finally:  # whatever happened, nobody may wait for ever
            with self._lock:
                self._ended = ended
            for _, future in self._waiting.values():
                future.set_exception(ended)

    def _next(self, kind: type[M]) -> M:
        """Waits for a message. Continues the server when a reward has stopped it."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        while not poll.poll(1000 * WAKE_SECONDS):
            with suppress(ChildProcessError):  # it has been waited for
                if processes.LINUX and os.waitid(
                    os.P_PID, self._server.pid, os.WSTOPPED | os.WNOHANG
                ):
                    os.kill(self._server.pid, signal.SIGCONT)
        return receive(self._connection, kind)

    def _complete(self, answer: Answer) -> None:
        samples, future = self._waiting.get(answer.number, (0, None))
        outcome, problem = answer.outcome, answer.problem
        if future is None or not (problem or (outcome and outcome.is_valid(samples))):
            raise GarbledError("an answer to another question")
        del self._waiting[answer.number]
        if problem is not None:
            future.set_exception(UserError(problem))
        elif outcome is not None:
            future.set_result(outcome)

    def _explain_end(self) -> UserError:
        what = f"the rewards' process ended with code {self._server.wait()}"
        if not self._imported:
            return UserError(f"{what} while it imported them")
        return UserError(f"{what}: killed from outside, or out of memory", CONTINUE)
