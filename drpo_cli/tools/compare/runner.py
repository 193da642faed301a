"""Runs the jobs of a grid, several at a time, until all are done or a signal stops them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from types import FrameType
from typing import Protocol

from drpo_cli import dist
from drpo_cli.errors import UserError
from drpo_cli.launch import failures
from drpo_cli.launch import launcher as launch
from drpo_cli.runs.events import one_line
from drpo_cli.runs.folder import RunFolder
from drpo_cli.tools.compare import process
from drpo_cli.tools.compare.jobs import Job
from drpo_cli.tools.compare.process import STOPS, Place
from drpo_cli.tools.compare.state import State, on_disk

PATIENCE = 0.2  # seconds until a signal that came while waiting is looked at


class Screen(Protocol):
    """Where the runner says what happens."""

    def started(self, job: Job) -> None:
        """A run has begun."""

    def ended(self, job: Job, state: State) -> None:
        """A run is over, or has been stopped."""


@dataclass
class Stop:
    """The first stop signal that came; 0 for none."""

    signal: int = 0

    def remember(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        self.signal = self.signal or number


@contextmanager
def heard() -> Iterator[Stop]:
    """Remembers SIGINT and SIGTERM while open, instead of dying of them."""
    stop = Stop()
    before = {number: signal.signal(number, stop.remember) for number in STOPS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Runner:
    """Runs jobs side by side: `slots` at a time, each on `world` processes."""

    def __init__(self, jobs: Sequence[Job], slots: int, world: int, screen: Screen):
        self.waiting = list(reversed(jobs))
        self.free = list(reversed(range(slots)))
        self.slots = slots
        self.world = world
        self.screen = screen
        self.running: dict[ForkServerProcess, tuple[Job, int]] = {}
        self.ended: dict[Job, State] = {}

    def run(self) -> tuple[Mapping[Job, State], int]:
        """Runs every job; returns where each stands, and the signal that stopped them or 0.

        On a signal the running ones finish their step and save; the others never start.
        """
        if not self.waiting:
            return self.ended, 0
        threads = dist.threads_per_rank(self.slots * self.world)
        context = process.open_server([job.spec for job in self.waiting], threads)
        with heard() as stop:
            told = False
            while self.running or (self.waiting and not stop.signal):
                if stop.signal and not told:
                    told = self._stop_all()
                while self.waiting and self.free and not stop.signal:
                    self._start(context, self.waiting.pop(), threads)
                self._collect(bool(stop.signal))
        return self.ended, stop.signal

    def _start(self, context: ForkServerContext, job: Job, threads: int) -> None:
        slot = self.free.pop()
        place = Place(self.world, threads, devices(slot, self.world))
        self.screen.started(job)
        try:
            folder = launch.prepare(job.spec, resume=True, world=self.world)
        except UserError as error:
            self._end(job, slot, State("failed", one_line(str(error))))
            return
        self.running[process.run(context, folder, place)] = job, slot

    def _collect(self, stopping: bool) -> None:
        sentinels = {ended.sentinel: ended for ended in self.running}
        for sentinel in wait(list(sentinels), timeout=PATIENCE):
            assert isinstance(sentinel, int)
            ended = sentinels[sentinel]
            job, slot = self.running.pop(ended)
            ended.join()
            state = on_disk(job)
            if state.status != "finished" and not stopping:
                state = State("failed", why(job.folder, self.world, ended.exitcode or 0))
            ended.close()
            self._end(job, slot, state)

    def _end(self, job: Job, slot: int, state: State) -> None:
        self.free.append(slot)
        self.ended[job] = state
        self.screen.ended(job, state)

    def _stop_all(self) -> bool:
        for running in self.running:
            running.terminate()  # SIGTERM: a run saves before it goes
        return True


def devices(slot: int, world: int) -> str | None:
    """CUDA_VISIBLE_DEVICES of the run in a slot; None on a machine without GPUs."""
    if dist.device_type() != "cuda":
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(dist.device_count())]
    return ",".join(names[(slot * world + i) % len(names)] for i in range(world))


def why(folder: RunFolder, world: int, code: int) -> str:
    """Why a run ended without finishing, in one line."""
    if (word := failures.first_word(folder, range(world))) is not None:
        return one_line(word[1])
    return (
        f"died with exit code {code} and without a word (killed, or out of memory?); "
        f"its log is {folder.log(0)}"
    )
