"""Processes that each have a share of the cores, keep an object open, and call its methods.

They stay alive between calls, so that two sizes of process group can be measured alternately. A
process without a call sleeps.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection
from typing import Any

Opened = Callable[..., AbstractContextManager[Any]]
"""An importable function; each rank calls `opened(**arguments)` to make the object for calls."""

PATIENCE = 600.0  # seconds after which a rank without an answer is considered to hang


class Ranks:
    """One process per rank; the object of `opened` lives in each until `close`."""

    def __init__(self, size: int, cores_each: int, opened: Opened, **arguments: Any):
        context, port = multiprocessing.get_context("spawn"), free_port()
        cores = sorted(os.sched_getaffinity(0))
        if size * cores_each > len(cores):
            raise RuntimeError(f"{size} ranks with {cores_each} cores each on {len(cores)} cores")
        self.lines: list[Connection] = []
        self.processes = []
        for rank in range(size):
            own = cores[rank * cores_each : (rank + 1) * cores_each]
            ours, theirs = context.Pipe()
            with _environment(place(rank, size, port) | {"OMP_NUM_THREADS": str(cores_each)}):
                process = context.Process(
                    target=_serve, args=(theirs, own, opened, arguments), name=f"rank {rank}"
                )
                process.start()
            theirs.close()
            self.lines.append(ours)
            self.processes.append(process)
        self._answers()

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """Calls a method of the opened object on every rank; returns the results.

        Raises RuntimeError with the rank's traceback if one raises, dies or hangs.
        """
        for line in self.lines:
            line.send_bytes(pickle.dumps((method, arguments)))
        return self._answers()

    def close(self) -> None:
        """Ends the processes."""
        for line in self.lines:
            line.close()
        for process in self.processes:
            process.join(timeout=30)
            process.kill()
            process.join()

    def _answers(self) -> list[Any]:
        answers = []
        for line, process in zip(self.lines, self.processes, strict=True):
            try:
                result, error = _receive(line)
            except EOFError:
                process.join()
                result, error = None, f"died with exit code {process.exitcode}"
            if error:
                self._kill()
                raise RuntimeError(f"{process.name}: {error}")
            answers.append(result)
        return answers

    def _kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


@contextmanager
def open_ranks(size: int, cores_each: int, opened: Opened, **arguments: Any) -> Iterator[Ranks]:
    """Opens ranks, and closes them at the end."""
    ranks = Ranks(size, cores_each, opened, **arguments)
    try:
        yield ranks
    finally:
        ranks.close()


@contextmanager
def alone() -> Iterator[Any]:
    """Makes this process the only one of a process group; yields its `dist.World`."""
    from drpo_cli import dist

    with _environment(place(0, 1, free_port())), dist.join() as world:
        yield world


def place(rank: int, size: int, port: int) -> dict[str, str]:
    """The environment variables of a rank, as the launcher would set them."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def free_port() -> int:
    """Finds a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _receive(line: Connection) -> tuple[Any, str | None]:
    if not line.poll(PATIENCE):
        return None, f"no answer in {PATIENCE:.0f} seconds"
    answer: tuple[Any, str | None] = pickle.loads(line.recv_bytes())
    return answer


def _serve(line: Connection, cores: list[int], opened: Opened, arguments: dict[str, Any]) -> None:
    os.sched_setaffinity(0, cores)
    os.dup2(2, 1)  # an engine's output is not part of the row's
    code = 1
    try:
        with opened(**arguments) as held:
            line.send_bytes(pickle.dumps((None, None)))
            _answer_calls(line, held)
        code = 0
    finally:
        if code:
            line.send_bytes(pickle.dumps((None, traceback.format_exc())))
        os._exit(code)  # an engine's remaining threads would keep the process alive


def _answer_calls(line: Connection, held: Any) -> None:
    while True:
        try:
            method, arguments = pickle.loads(line.recv_bytes())
        except EOFError:
            return
        line.send_bytes(pickle.dumps((getattr(held, method)(*arguments), None)))
