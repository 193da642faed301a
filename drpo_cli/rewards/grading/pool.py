"""The rewards' processes: a call goes to any worker of its reward."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

from drpo_cli.calls import pool
from drpo_cli.rewards.grading.contract import Call, Reward
from drpo_cli.rewards.grading.score import Outcome


class Pool:
    """The grading server of several rewards. Closed, it leaves no process behind."""

    def __init__(self, rewards: Sequence[Reward]) -> None:
        self._pool = pool.Pool("reward", "drpo_cli.rewards.grading.server", Outcome, rewards)

    def submit(self, index: int, call: Call) -> Future[Outcome]:
        """Sends a call of the reward with this index: see `calls.pool.Pool.submit`."""
        return self._pool.submit(index, call, len(call.samples))

    def close(self) -> None:
        """Ends the server and all workers; futures that still wait get an exception."""
        self._pool.close()
