"""Worker processes of the rewards: hands calls out, and kills what takes too long.

One thread of the trainer's process does all of it, so that graders go on while the engine samples.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from multiprocessing.connection import Connection, wait
from threading import Lock, Thread

from drpo_cli.errors import UserError
from drpo_cli.rewards.grading.contract import Call, Reward
from drpo_cli.rewards.grading.crew import Crew, Job
from drpo_cli.rewards.grading.forkserver import ForkServer
from drpo_cli.rewards.grading.score import Outcome


class Pool:
    """The worker processes of several rewards. Closed, it leaves no process behind."""

    def __init__(self, rewards: Sequence[Reward]) -> None:
        self._server = ForkServer(rewards)
        self._crews = [
            Crew(reward, partial(self._server.start, index), self._server.kill)
            for index, reward in enumerate(rewards)
        ]
        self._lock = Lock()
        self._wake_read, self._wake_write = os.pipe()
        self._open = True
        self._ended: Exception | None = None
        self._thread = Thread(target=self._run, name="drpo-rewards", daemon=True)
        self._thread.start()

    def submit(self, index: int, call: Call) -> Future[Outcome]:
        """A call of the reward of this index.

        The future raises UserError if its set-up failed. Raises UserError for arguments that cannot
        go to another process, and when the processes are gone.
        """
        job = Job(self._pickled(index, call), Future())
        with self._lock:
            if self._ended is not None:
                raise self._ended
            self._crews[index].enter(job)
        self._wake()
        return job.future

    def close(self) -> None:
        """Kills all workers; calls that have not been answered are cancelled."""
        self._open = False
        self._wake()
        self._thread.join()
        self._server.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _wake(self) -> None:
        os.write(self._wake_write, b"!")

    def _pickled(self, index: int, call: Call) -> bytes:
        try:
            return pickle.dumps(call)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise UserError(
                f"reward {self._crews[index].reward.name!r}: its arguments cannot go to its "
                f"process: {error}; a row's columns must be plain values"
            ) from error

    def _run(self) -> None:
        ended: Exception = RuntimeError("the rewards' pool has ended")
        try:
            for crew in self._crews:
                crew.fill()
            while self._open:
                for crew in self._crews:
                    crew.hand_out()
                self._listen()
                for crew in self._crews:
                    crew.end_overdue()
        except UserError as error:
            ended = error
        finally:  # closed, or a bug, whose traceback the thread prints: nobody may wait for ever
            self._abandon(ended)

    def _listen(self) -> None:
        """Waits for a message of any worker, a new call, or the next deadline."""
        speakers = {worker.connection: (c, worker) for c in self._crews for worker in c.workers}
        ends = [end for crew in self._crews if (end := crew.deadline()) is not None]
        patience = max(0.0, min(ends) - time.monotonic()) if ends else None
        for ready in wait([self._wake_read, *speakers], patience):
            if ready == self._wake_read:
                os.read(self._wake_read, 4096)
            elif isinstance(ready, Connection):
                crew, worker = speakers[ready]
                crew.receive(worker)

    def _abandon(self, ended: Exception) -> None:
        with self._lock:
            self._ended = ended
        for crew in self._crews:
            for job in crew.jobs():
                # Not cancelled: who waits for several futures would not be told.
                if job.future.running() or job.future.set_running_or_notify_cancel():
                    job.future.set_exception(ended)
            crew.dismiss()
