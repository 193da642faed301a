"""Calls a reward that is set up in this process, and checks what it returns.

It catches whatever the reward raises: that is the user's code. A score is a plain float within
±LARGEST. The process that runs the reward explains what is wrong with another value; whoever gets
its answer trusts only `is_valid`.
"""

from __future__ import annotations

import asyncio
import numbers
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from drpo_cli.calls.failures import (
    LARGEST,
    Failure,
    Kind,
    as_python,
    explain,
    is_usable,
    seed_generators,
    short,
    take_counts,
    timeout_failure,
)
from drpo_cli.errors import UserError
from drpo_cli.rewards.grading import contract as _contract
from drpo_cli.rewards.grading.contract import Call, Reward

MACHINERY = (__file__, _contract.__file__)


class Outcome(NamedTuple):
    """The result of a call: one score for each of its samples, or a failure."""

    scores: tuple[float, ...]
    failure: Failure | None = None
    seconds: float = 0.0
    counts: Mapping[str, int | float] = {}

    def is_valid(self, samples: int) -> bool:
        """Whether it is the result of a call for that many samples, in usable numbers."""
        expected = 0 if self.failure else samples
        values = (*self.scores, self.seconds, *self.counts.values())
        return len(self.scores) == expected and all(map(is_usable, values))


class ReadyReward:
    """A reward that is set up in this process. Raises UserError when its set-up fails."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        try:
            self.function = reward.set_up()
        except BaseException as error:
            if reward.inline and not isinstance(error, Exception):
                raise  # in the trainer it may be Ctrl-C
            raise UserError(
                f"reward {reward.name!r}: its set-up failed: {explain(error, 'reward', MACHINERY)}"
            ) from error

    def outcome(self, call: Call) -> Outcome:
        """Calls a reward that is not async, up to `tries` times while it raises."""
        try:
            self._call(call).send(None)
        except StopIteration as finished:  # it awaits nothing, so it runs through
            outcome: Outcome = finished.value
            return outcome
        raise AssertionError("a reward that is not async was awaited")

    async def outcome_async(self, call: Call) -> Outcome:
        """The same for an async reward, which is cancelled at its time-out."""
        began, limit = time.perf_counter(), self.reward.config.timeout_s
        try:
            async with asyncio.timeout(limit):
                return await self._call(call)
        except TimeoutError:
            seconds = time.perf_counter() - began
            return Outcome(
                (), timeout_failure(limit, "reward"), seconds, take_counts(self.function)
            )

    async def _call(self, call: Call) -> Outcome:
        arguments, began = self._arguments(call), time.perf_counter()
        failure = None
        if not self.reward.inline:  # or it would seed the trainer's own generators
            seed_generators(call.seed)
        for _ in range(self.reward.config.tries):
            try:
                value = self.function(**arguments)
                if self.reward.is_async:
                    value = await value
                return self._check(value, call, began)
            except BaseException as error:
                if _is_ours(error, self.reward):
                    raise
                failure = Failure("exception", _explain(error))
                if isinstance(error, UserError):
                    break  # another try would not help
        return Outcome((), failure, time.perf_counter() - began, take_counts(self.function))

    def _arguments(self, call: Call) -> dict[str, Any]:
        if "config" in self.reward.asks:
            return {**call.arguments, "config": self.reward.config}
        return call.arguments

    def _check(self, value: Any, call: Call, began: float) -> Outcome:
        """The outcome of a call that returned `value`."""
        seconds, counts = time.perf_counter() - began, take_counts(self.function)
        values = value if self.reward.whole_group else [value]
        values = list(values) if _is_list(values) else None  # a class may lie about its length
        size = len(call.samples)
        if values is None or len(values) != size:
            what = short(repr(value)) if values is None else f"{len(values)} scores"
            kind: Kind = "wrong_type" if values is None else "wrong_length"
            detail = f"returned {what} for {size} samples; return a list with one score per sample"
            return Outcome((), Failure(kind, detail), seconds, counts)
        scores = []
        for one in values:
            found = _as_score(as_python(one))
            if isinstance(found, Failure):
                return Outcome((), found, seconds, counts)
            scores.append(found)
        return Outcome(tuple(scores), None, seconds, counts)


def _is_ours(error: BaseException, reward: Reward) -> bool:
    """Whether an exception is not the reward's own: a cancelled call, or Ctrl-C in the trainer."""
    if isinstance(error, Exception):
        return False
    task = asyncio.current_task() if reward.is_async else None
    return reward.inline or bool(task and task.cancelling())


def _is_list(value: Any) -> bool:
    # An array is as good as a list. A text and a set have a length, but not one score per sample.
    ordered = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    scalar = getattr(value, "ndim", 1) == 0
    return ordered and not scalar and not isinstance(value, str | bytes | Mapping)


def _as_score(value: Any) -> float | Failure:
    """The value as a plain float, whatever its class says about itself; or what is wrong."""
    if not isinstance(value, numbers.Real):
        what = f"returned {short(repr(value))} ({type(value).__name__})"
        return Failure("wrong_type", f"{what}; return a finite number")
    try:
        score = float(value)
    except OverflowError:
        score = float("inf")
    if is_usable(score):
        return score
    return Failure("not_finite", f"returned {score}; return a finite number, up to {LARGEST:g}")


def _explain(error: BaseException) -> str:
    return explain(error, "reward", MACHINERY)
