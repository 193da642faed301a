"""Real processes in one gloo group, kept for many jobs: starting them takes longer than a job."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

import pytest
import torch

from support.models import free_port, world

HANG = 120.0  # seconds after which a rank that has not answered is taken to hang
GRACE = 5.0  # seconds that a dying rank has until it is gone

Job = Callable[..., Any]
"""Called as `job(world, **arguments)` on every rank; an importable function."""


class Ranks:
    """Processes that have joined one group and wait for jobs; new ones after a job that failed."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.lines: list[Connection] = []
        self.processes: list[ForkServerProcess] = []

    def run(self, job: Job, **arguments: Any) -> list[Any]:
        """The job's result on every rank. Fails the test when a rank raises, hangs or dies.

        A job in which a rank was aborted by the C library is run once more, with a warning: see
        docs/reliability.md.
        """
        try:
            return self._run(job, arguments)
        except _Aborted as aborted:
            warnings.warn(f"{job.__name__} is run again: {aborted}", stacklevel=2)
            return self._run(job, arguments)

    def _run(self, job: Job, arguments: dict[str, Any]) -> list[Any]:
        if not self.processes:
            self._start()
        for line in self.lines:
            line.send_bytes(pickle.dumps((job, arguments)))
        results = []
        for rank, line in enumerate(self.lines):
            if not line.poll(HANG):
                self.stop()
                pytest.fail(f"rank {rank} hangs in {job.__name__}")
            try:
                result, error = pickle.loads(line.recv_bytes())
            except EOFError:
                result, error = None, "died"
            if error:
                codes = self.stop(GRACE)
                if -signal.SIGABRT in codes:
                    raise _Aborted(f"exit codes {codes}; rank {rank}: {error}")
                pytest.fail(f"rank {rank}: {error}, exit codes {codes}")
            results.append(result)
        return results

    def stop(self, grace: float = 0.0) -> list[int | None]:
        """Ends the processes, whatever they are doing, and returns their exit codes.

        Each has `grace` seconds to die by itself: neighbours notice a death before it is complete.
        """
        for process in self.processes:
            process.join(grace)
            process.terminate()
            process.join()
        codes = [process.exitcode for process in self.processes]
        self.lines, self.processes = [], []
        return codes

    def _start(self) -> None:
        context, port = multiprocessing.get_context("forkserver"), free_port()
        context.set_forkserver_preload(["support.jobs"])  # imported once for all ranks of all files
        for rank in range(self.size):
            ours, theirs = context.Pipe()
            arguments = (theirs, rank, self.size, port)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv("OMP_NUM_THREADS", "1")
                process.start()
            theirs.close()
            self.lines.append(ours)
            self.processes.append(process)


class _Aborted(Exception):
    """A rank ended by SIGABRT."""


def _serve(line: Connection, rank: int, size: int, port: int) -> None:
    torch.set_num_threads(1)
    with world(rank, size, port) as here:
        while True:
            job, arguments = pickle.loads(line.recv_bytes())
            answer: tuple[Any, str | None]
            try:
                answer = job(here, **arguments), None
            except BaseException:
                answer = None, traceback.format_exc()
            line.send_bytes(pickle.dumps(answer))


@contextmanager
def open_ranks(size: int) -> Iterator[Ranks]:
    """Ranks that are stopped at the end."""
    ranks = Ranks(size)
    try:
        yield ranks
    finally:
        ranks.stop()
