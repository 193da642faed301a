"""Real processes in one gloo group, kept for many jobs: starting them takes longer than a job."""

from __future__ import annotations

import multiprocessing
import pickle
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch

from support.models import free_port, world

HANG = 120.0  # seconds after which a rank that has not answered is taken to hang

Job = Callable[..., Any]
"""Called as `job(world, **arguments)` on every rank; an importable function."""


class Ranks:
    """Processes that have joined one group and wait for jobs."""

    def __init__(self, size: int) -> None:
        context, port = multiprocessing.get_context("forkserver"), free_port()
        context.set_forkserver_preload(["support.jobs"])  # imported once for all ranks of all files
        self.lines: list[Connection] = []
        self.processes = []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, size, port), daemon=True)
            process.start()
            theirs.close()
            self.lines.append(ours)
            self.processes.append(process)

    def run(self, job: Job, **arguments: Any) -> list[Any]:
        """The job's result on every rank. Fails the test when a rank raises, hangs or dies."""
        for line in self.lines:
            line.send_bytes(pickle.dumps((job, arguments)))
        results = []
        for rank, line in enumerate(self.lines):
            if not line.poll(HANG):
                self.stop()
                pytest.fail(f"rank {rank} hangs in {job.__name__}")
            result, error = pickle.loads(line.recv_bytes())
            if error:
                self.stop()
                pytest.fail(f"rank {rank}: {error}")
            results.append(result)
        return results

    def stop(self) -> None:
        """Ends the processes, whatever they are doing."""
        for process in self.processes:
            process.terminate()
            process.join()


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
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")
        ranks = Ranks(size)
    try:
        yield ranks
    finally:
        ranks.stop()
