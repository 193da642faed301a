"""The worker processes of one reward: who has which call, since when, and who is beyond help."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import NamedTuple

from drpo_cli.errors import UserError
from drpo_cli.rewards.grading.contract import Reward
from drpo_cli.rewards.grading.score import Failure, Outcome, timed_out
from drpo_cli.rewards.grading.worker import Answer, Ready, Request

SETUP_SECONDS = 1800.0  # a reward model may have to be downloaded first
GRACE_SECONDS = 2.0  # an async worker stops its own calls; only one that is stuck is killed
STAND_INS = 30  # processes that may stand in for others, whose calls wait for something
STAND_IN_SETUP = 1.0  # seconds of set-up above which a process is too dear to stand in
LATE = 10.0  # times the usual seconds after which a call may be one that waits for ever
LEAST_LATE = 0.01
DEAD = "its process died: killed from outside, out of memory, crashed in native code, or it exited"


class Job(NamedTuple):
    """A call, pickled, who waits for its outcome, and whether it gets a process to itself."""

    call: bytes
    future: Future[Outcome]
    alone: bool = False


@dataclass
class _Running:
    job: Job
    since: float
    waits: bool | None = None  # for something else than a core; None while it is not late


@dataclass(eq=False)
class Worker:
    """A process; `setup` is how many seconds it took to get ready, None while it is not."""

    pid: int
    connection: Connection
    started: float
    setup: float | None = None
    running: dict[int, _Running] = field(default_factory=dict)
    outbox: SimpleQueue[Request | None] = field(default_factory=SimpleQueue)

    def __post_init__(self) -> None:
        """Sends in a thread: a worker that does not read must keep nobody else waiting."""
        own = Connection(os.dup(self.connection.fileno()), readable=False)
        Thread(target=_send_all, args=(own, self.outbox), daemon=True).start()


class Crew:
    """All processes of a reward. `start` forks one, `kill` ends one by its process id.

    All methods but `enter` are for one thread. A call that waits for what does not come costs the
    others nothing: while it runs into its time-out, another process stands in for its own. One that
    computes has a core, and nobody could stand in for that.
    """

    def __init__(
        self,
        reward: Reward,
        start: Callable[[], tuple[int, Connection]],
        kill: Callable[[int], None],
    ) -> None:
        self.reward = reward
        self.workers: list[Worker] = []
        self.problem: str | None = None
        self._start, self._kill = start, kill
        self._waiting: deque[Job] = deque()
        self._number = 0
        self._answered, self._seconds = 0, 0.0

    def enter(self, job: Job) -> None:
        """Puts a call at the end of the queue."""
        self._waiting.append(job)

    def fill(self) -> None:
        """Starts processes until as many as asked for can work."""
        while self.problem is None and len(self.workers) - self._waits() < self._wanted():
            self.workers.append(Worker(*self._start(), time.monotonic()))

    def hand_out(self) -> None:
        """Gives waiting calls to workers that have room, the least busy first."""
        if self.problem is not None:
            while job := self._next_job():
                job.future.set_exception(UserError(self.problem))
        if self._waiting:
            self._judge_late_calls()
            self.fill()
        for worker in sorted(self.workers, key=lambda worker: len(worker.running)):
            while self._has_room(worker):
                job = self._next_job()
                if job is None:
                    break
                self._number += 1
                worker.running[self._number] = _Running(job, time.monotonic())
                worker.outbox.put(Request(self._number, job.call))

    def receive(self, worker: Worker) -> None:
        """Takes what a worker has to say, if only that it is dead."""
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):  # nothing more, or half a message
            self._replace(worker, set(worker.running), Failure("crash", DEAD))
            return
        if isinstance(message, Ready):
            worker.setup = time.monotonic() - worker.started
            if message.problem is not None:
                self._give_up(worker, message.problem)
        elif isinstance(message, Answer):
            running = worker.running.pop(message.number)
            running.job.future.set_result(message.outcome)
            self._answered += 1
            self._seconds += message.outcome.seconds
            if running.waits and len(self.workers) > self._wanted():
                self._remove(worker)  # it came back, and another stands in for it

    def deadline(self) -> float | None:
        """When to look again at the latest, by `time.monotonic`."""
        calls = [running for worker in self.workers for running in worker.running.values()]
        ends = [running.since + self._limit() for running in calls]
        ends += [w.started + SETUP_SECONDS for w in self.workers if w.setup is None]
        if self._waiting and not self.reward.is_async:
            ends += [running.since + self._late() for running in calls if running.waits is None]
        return min(ends, default=None)

    def end_overdue(self) -> None:
        """Kills what has had its time."""
        now = time.monotonic()
        for worker in list(self.workers):
            overdue = {n for n, r in worker.running.items() if now - r.since >= self._limit()}
            if overdue:
                self._replace(worker, overdue, self._overdue())
            elif worker.setup is None and now - worker.started >= SETUP_SECONDS:
                what = f"its set-up took longer than {SETUP_SECONDS:g} seconds"
                self._give_up(worker, f"reward {self.reward.name!r}: {what}; make it quicker")

    def dismiss(self) -> None:
        """Nothing more is sent to any worker."""
        for worker in self.workers:
            worker.outbox.put(None)

    def jobs(self) -> list[Job]:
        """All calls without an outcome."""
        running = [r.job for worker in self.workers for r in worker.running.values()]
        return [*self._waiting, *running]

    def _wanted(self) -> int:
        return self.reward.config.workers

    def _has_room(self, worker: Worker) -> bool:
        jobs = [running.job for running in worker.running.values()]
        next_alone = self._waiting[0].alone if self._waiting else False
        together = self.reward.is_async and not next_alone and not any(job.alone for job in jobs)
        room = self.reward.config.concurrency if together else 1
        return worker.setup is not None and len(jobs) < room

    def _limit(self) -> float:
        return self.reward.config.timeout_s + (GRACE_SECONDS if self.reward.is_async else 0.0)

    def _late(self) -> float:
        most = self.reward.config.timeout_s / LATE
        return min(most, max(LEAST_LATE, LATE * self._seconds / max(1, self._answered)))

    def _waits(self) -> int:
        """Workers that another stands in for."""
        waits = sum(any(r.waits for r in worker.running.values()) for worker in self.workers)
        return min(waits, STAND_INS)

    def _judge_late_calls(self) -> None:
        if self.reward.is_async:
            return  # its workers take other calls meanwhile
        now, late = time.monotonic(), self._late()
        for worker in self.workers:
            for running in worker.running.values():
                if running.waits is None and now - running.since >= late:
                    dear = worker.setup is None or worker.setup > STAND_IN_SETUP
                    running.waits = not dear and not _computes(worker.pid)

    def _next_job(self) -> Job | None:
        while self._waiting:
            job = self._waiting.popleft()
            # One that runs already lost its worker to another call, and goes to the next.
            if job.future.running() or job.future.set_running_or_notify_cancel():
                return job
        return None

    def _overdue(self) -> Failure:
        failure = timed_out(self.reward.config.timeout_s)
        if not self.reward.is_async:
            return failure
        blocked = "; it blocked its event loop: await what waits, and do not catch the cancellation"
        return failure._replace(detail=failure.detail + blocked)

    def _replace(self, worker: Worker, failed: set[int], failure: Failure) -> None:
        """Kills a worker and fails its call; of several, each is called again by itself."""
        self._remove(worker)
        if worker.setup is None:
            self.problem = f"reward {self.reward.name!r}: {failure.detail} in its set-up"
            return
        if len(worker.running) == len(failed) == 1:
            (running,) = worker.running.values()
            seconds = time.monotonic() - running.since
            running.job.future.set_result(Outcome((), failure, seconds))
        else:  # it may have been any of them
            again = [running.job._replace(alone=True) for running in worker.running.values()]
            self._waiting.extendleft(reversed(again))
        self.fill()

    def _give_up(self, worker: Worker, problem: str) -> None:
        self._remove(worker)
        self.problem = problem

    def _remove(self, worker: Worker) -> None:
        self.workers.remove(worker)
        worker.outbox.put(None)
        worker.connection.close()
        self._kill(worker.pid)


def _send_all(connection: Connection, outbox: SimpleQueue[Request | None]) -> None:
    with connection, suppress(BrokenPipeError, ConnectionResetError):  # its other end says so
        while (request := outbox.get()) is not None:
            connection.send(request)


def _computes(pid: int) -> bool:
    """Whether a process, or one that it started, is at work on a core just now."""
    import psutil

    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        at_work = (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP)
        return any(one.status() in at_work for one in family)
    except psutil.NoSuchProcess:
        return True  # one of them has just ended: something moves
