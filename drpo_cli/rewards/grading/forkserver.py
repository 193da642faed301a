"""A warm process that imports the rewards once and forks their workers.

Forking the trainer itself would copy a process that holds an engine, a device and many threads.
This one holds nothing but the imported rewards, so that a worker that had to be killed is replaced
in milliseconds, however long the imports took.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import reduction
from multiprocessing.connection import Connection, Pipe
from typing import NamedTuple

from drpo_cli import plugins
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.rewards.grading import worker as _worker
from drpo_cli.rewards.grading.contract import Reward, prepare

PR_SET_PDEATHSIG = 1
# The workers are what runs in parallel, and a library's threads survive no fork.
ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# A resumed run's sets of strings have the order that they had before.
ENVIRONMENT["PYTHONHASHSEED"] = "0"
# A reward that asks whether there is a GPU must not keep its forks from using it.
ENVIRONMENT["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"

# Not `-m`: messages are pickled under this module's own name, which is then not `__main__`.
ENTRY = f"from {__name__} import main; main"


class Warm(NamedTuple):
    """The first message: where to import from, and each reward's type and options.

    The options are pickled: they may hold what a class of the reward's own module made.
    """

    search_path: list[str]
    rewards: list[tuple[str, bytes]]


class Start(NamedTuple):
    """Fork a worker of the reward of this index; its connection's handle follows."""

    reward: int


class Kill(NamedTuple):
    """Kill this worker and everything it started in its group."""

    pid: int


class ForkServer:
    """The trainer's side. Raises UserError when a reward cannot be imported over there."""

    def __init__(self, rewards: Sequence[Reward]) -> None:
        self._connection, theirs = Pipe()
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"{ENTRY}({theirs.fileno()})"],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | ENVIRONMENT,
        )
        theirs.close()
        chosen = [(r.selected.type, pickle.dumps(r.config)) for r in rewards]
        self._connection.send(Warm(sys.path, chosen))
        self._warm = False

    def start(self, reward: int) -> tuple[int, Connection]:
        """Forks a worker; returns its process id and this side's end of its connection."""
        with self._lock:
            self._await_warmth()
            ours, theirs = Pipe()
            try:
                self._connection.send(Start(reward))
                reduction.send_handle(self._connection, theirs.fileno(), self._process.pid)
                pid: int = self._connection.recv()
            except (EOFError, BrokenPipeError, ConnectionResetError) as error:
                code = self._process.wait()
                raise UserError(
                    f"the rewards' process ended with code {code}: killed from outside, or for "
                    "want of memory; go on with --resume"
                ) from error
            finally:
                theirs.close()
            return pid, ours

    def kill(self, pid: int) -> None:
        """Kills a worker and what it started; one that is gone already stays gone."""
        with self._lock, suppress(BrokenPipeError, ConnectionResetError):
            self._connection.send(Kill(pid))  # a server that is gone took its workers with it

    def close(self) -> None:
        """Ends the server and all its workers."""
        self._connection.close()
        self._process.wait()

    def _await_warmth(self) -> None:
        if self._warm:
            return
        try:
            problem = self._connection.recv()
        except (EOFError, ConnectionResetError):
            code = self._process.wait()
            problem = f"the rewards' process ended with code {code} while it imported them"
        if problem is not None:
            raise UserError(problem)
        self._warm = True


def main(handle: int) -> None:
    """The server's side: imports, then forks and kills as it is told, until it is left alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(handle)
    try:
        rewards = _imported(connection.recv())
    except UserError as error:
        connection.send(str(error))
        return
    except EOFError:
        return  # the trainer ended before it said what to import
    connection.send(None)
    child = _serve(connection, rewards)
    if child is not None:
        _worker.run(*child)


def _serve(connection: Connection, rewards: list[Reward]) -> tuple[Reward, Connection] | None:
    """Forks and kills; returns in every child with what it is to run, at the end in the server."""
    workers: set[int] = set()
    killed: set[int] = set()
    while True:
        try:
            request = connection.recv()
            _reap(killed)
            if isinstance(request, Kill):
                workers.remove(request.pid)
                killed.add(request.pid)
                _kill({request.pid})
                continue
            theirs = Connection(reduction.recv_handle(connection))
        except (EOFError, ConnectionResetError):
            _kill(workers)
            return None
        pid = os.fork()
        if pid == 0:
            os.setsid()
            _die_with_server()
            connection.close()
            return rewards[request.reward], theirs
        theirs.close()
        workers.add(pid)
        connection.send(pid)


def _imported(warm: Warm) -> list[Reward]:
    sys.path[:] = warm.search_path
    importlib.import_module("numpy.random")  # whose generator every worker seeds
    rewards = []
    for type, options in warm.rewards:
        for name in plugins.load("rewards", type).imports:
            if importlib.util.find_spec(name) is not None:  # if not, the reward will say so
                importlib.import_module(name)
        rewards.append(prepare(Selected("rewards", type, pickle.loads(options))))
    return rewards


def _die_with_server() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _reap(killed: set[int]) -> None:
    """Takes leave of workers that were killed. Not before: their groups' ids would be free."""
    for pid in list(killed):
        if os.waitpid(pid, os.WNOHANG)[0]:
            killed.discard(pid)


def _kill(workers: set[int]) -> None:
    for pid in workers:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(pid, signal.SIGKILL)  # so new that it does not lead its group yet
