"""Runs the jobs of a grid, several at a time, until all are done or a signal stops them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from types import FrameType, TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from drpo_cli import dist, processes
from drpo_cli.console import open_console
from drpo_cli.errors import UserError
from drpo_cli.launch import launcher
from drpo_cli.launch.failures import first_failure
from drpo_cli.runs.events import one_line
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.metrics import StepMetrics
from drpo_cli.runs.reader import read
from drpo_cli.tools.compare import server
from drpo_cli.tools.compare.jobs import Job, State, read_state

STOPS = (signal.SIGINT, signal.SIGTERM)
POLL_S = 0.2  # a signal that comes during a wait is seen after this long


class Runner:
    """Runs jobs side by side: `slots` at a time, each on `world` processes.

    Consumes      jobs that are not finished
    Waits for     the end of any running job
    Unblocked by  that end, or a signal: running jobs then finish their step and save, others
                  never start
    Produces      the state of each job, and a line on the screen
    """

    def __init__(self, jobs: Sequence[Job], slots: int, world: int, screen: Screen):
        self.waiting = list(reversed(jobs))
        self.free = list(reversed(range(slots)))
        self.slots = slots
        self.world = world
        self.screen = screen
        self.running: dict[ForkServerProcess, tuple[Job, int]] = {}
        self.ended: dict[Job, State] = {}
        self.signal = 0

    def run(self) -> tuple[Mapping[Job, State], int]:
        """Runs every job; returns the state of each, and the signal that stopped them or 0."""
        if not self.waiting:
            return self.ended, 0
        threads = dist.threads_per_rank(self.slots * self.world)
        context = server.open_server([job.spec for job in self.waiting], threads)
        with processes.handle_signals(STOPS, self._remember):
            stopping = False
            while self.running or (self.waiting and not self.signal):
                if self.signal and not stopping:
                    stopping = True
                    for process in self.running:
                        process.terminate()  # SIGTERM: a run saves before it ends
                while self.waiting and self.free and not self.signal:
                    self._start(context, self.waiting.pop(), threads)
                self._collect()
        return self.ended, self.signal

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number

    def _start(self, context: ForkServerContext, job: Job, threads: int) -> None:
        slot = self.free.pop()
        place = server.Place(self.world, threads, choose_devices(slot, self.world))
        self.screen.started(job)
        try:
            folder = launcher.prepare(job.spec, resume=True, world=self.world)
        except UserError as error:
            self._end(job, slot, State("failed", one_line(str(error))))
            return
        self.running[server.start(context, folder, place)] = job, slot

    def _collect(self) -> None:
        stopping = bool(self.signal)
        by_sentinel = {process.sentinel: process for process in self.running}
        for sentinel in wait(list(by_sentinel), timeout=POLL_S):
            assert isinstance(sentinel, int)
            process = by_sentinel[sentinel]
            job, slot = self.running.pop(process)
            process.join()
            state = read_state(job)
            if state.status != "finished" and not stopping:
                state = State("failed", explain(job.folder, self.world, process.exitcode or 0))
            process.close()
            self._end(job, slot, state)

    def _end(self, job: Job, slot: int, state: State) -> None:
        self.free.append(slot)
        self.ended[job] = state
        self.screen.ended(job, state)


def choose_devices(slot: int, world: int) -> str | None:
    """CUDA_VISIBLE_DEVICES of the run in a slot; None on a machine without GPUs."""
    if dist.device_type() != "cuda":
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(dist.device_count())]
    return ",".join(names[(slot * world + i) % len(names)] for i in range(world))


def explain(folder: RunFolder, world: int, code: int) -> str:
    """Why a run ended without finishing, in one line."""
    if (failure := first_failure(folder, range(world))) is not None:
        return one_line(failure.message)
    return (
        f"died with exit code {code} and recorded no error (killed, or out of memory?); "
        f"its log is {folder.log(0)}"
    )


class Screen:
    """Prints a line for each run that ends; on a terminal, also a progress bar below."""

    def __init__(self, total: int, done: int):
        self.total = total
        self.done = done
        self.began: dict[Job, float] = {}
        self.progress: Progress | None = None
        if sys.stdout.isatty():
            columns = (TextColumn("runs"), MofNCompleteColumn(), BarColumn(None))
            self.progress = Progress(
                *columns,
                TimeElapsedColumn(),
                console=open_console(),
                redirect_stdout=False,  # it would read the styles of others' text
                redirect_stderr=False,
            )
            self.task = self.progress.add_task("runs", total=total, completed=done)

    def __enter__(self) -> Screen:
        """Shows the progress bar."""
        if self.progress is not None:
            self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leaves the terminal as it was."""
        if self.progress is not None:
            self.progress.stop()

    def started(self, job: Job) -> None:
        """Takes note that a run has begun."""
        self.began[job] = time.monotonic()

    def ended(self, job: Job, state: State) -> None:
        """Prints how a run ended."""
        self.done += state.status in ("finished", "failed")
        seconds = time.monotonic() - self.began[job]
        counter = f"{self.done}/{self.total}"
        line = f"{counter}  {job.label}: {_describe(job, state)}  ({seconds:.1f} s)"
        if self.progress is None:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            return
        self.progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self.progress.update(self.task, completed=self.done)


def _describe(job: Job, state: State) -> str:
    if state.status == "failed":
        return f"failed: {state.reason}"
    records = read(job.folder.metrics, StepMetrics)
    if state.status != "finished":
        return f"stopped after step {records[-1]['step'] if records else 0}"
    scored = [score for record in records if (score := record.get("held_out")) is not None]
    return f"held-out {scored[0]:.3f} → {scored[-1]:.3f}" if scored else "no held-out score"
