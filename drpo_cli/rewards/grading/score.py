"""Calls a reward that is set up in this process, and holds what it returns to the contract.

The only file of the rooms that may catch every exception: the code it calls is the user's.
"""

from __future__ import annotations

import asyncio
import math
import numbers
import random
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from drpo_cli.errors import UserError
from drpo_cli.plugins import where_it_broke
from drpo_cli.rewards.grading import contract as _contract
from drpo_cli.rewards.grading.contract import Call, Reward

MACHINERY = (__file__, _contract.__file__)
DETAIL = 2000
"""Characters of a failure's words: a message may quote a whole completion."""


class Failure(NamedTuple):
    """Why a call gave no scores: a kind to count by, and the words for it."""

    kind: str
    detail: str


class Outcome(NamedTuple):
    """What became of a call: one score for each of its samples, or why there is none."""

    scores: tuple[float, ...]
    failure: Failure | None = None
    seconds: float = 0.0
    counts: Mapping[str, float] = {}


class ReadyReward:
    """A reward set up in this process. Raises UserError when its set-up does not work."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        try:
            self.function = reward.set_up()
        except Exception as error:
            raise UserError(f"reward {reward.name!r}: its set-up failed: {_told(error)}") from error

    def outcome(self, call: Call) -> Outcome:
        """Calls a reward that is not async, again where it raises and may be tried again."""
        try:
            self._tried(call).send(None)
        except StopIteration as finished:  # it awaits nothing, so it runs through
            outcome: Outcome = finished.value
            return outcome
        raise AssertionError("a reward that is not async was awaited")

    async def outcome_async(self, call: Call) -> Outcome:
        """The same for an async reward, which is stopped at its time-out."""
        began, limit = time.perf_counter(), self.reward.config.timeout_s
        try:
            return await asyncio.wait_for(self._tried(call), limit)
        except TimeoutError:
            seconds = time.perf_counter() - began
            return Outcome((), timed_out(limit), seconds, self._taken_counts())

    async def _tried(self, call: Call) -> Outcome:
        arguments, began = self._arguments(call), time.perf_counter()
        failure = None
        if not self.reward.inline:  # the caller's own generators are not the reward's to set
            seed_generators(call.seed)
        for _ in range(self.reward.config.tries):
            try:
                value = self.function(**arguments)
                if self.reward.is_async:
                    value = await value
                return self._judged(value, call, began)
            except Exception as error:
                failure = Failure("exception", _told(error))
                if isinstance(error, UserError):
                    break  # it says what is wrong for good
        return Outcome((), failure, time.perf_counter() - began, self._taken_counts())

    def _arguments(self, call: Call) -> dict[str, Any]:
        if "config" in self.reward.asks:
            return {**call.arguments, "config": self.reward.config}
        return call.arguments

    def _judged(self, value: Any, call: Call, began: float) -> Outcome:
        seconds, counts = time.perf_counter() - began, self._taken_counts()
        values = value if self.reward.whole_group else [value]
        size = len(call.samples)
        if not _is_list(values) or len(values) != size:
            what = f"{len(values)} scores" if _is_list(values) else short(repr(values))
            kind = "wrong_length" if _is_list(values) else "wrong_type"
            detail = f"returned {what} for {size} samples; return a list of one score each"
            return Outcome((), Failure(kind, detail), seconds, counts)
        plain = [_plain(one) for one in values]
        failure = next((wrong for wrong in map(_wrong_number, plain) if wrong), None)
        scores = () if failure else tuple(float(one) for one in plain)
        return Outcome(scores, failure, seconds, counts)

    def _taken_counts(self) -> dict[str, float]:
        """What the reward counted since it was last asked."""
        counts = getattr(self.function, "counts", None)
        if not isinstance(counts, Counter):
            return {}
        taken = {str(k): float(n) if n % 1 else int(n) for k, n in counts.items()}
        counts.clear()
        return taken


def seed_generators(seed: int) -> None:
    """Makes what a reward draws depend on its sample alone, not on the process it runs in."""
    import numpy

    random.seed(seed)
    numpy.random.seed(seed)


def timed_out(limit: float) -> Failure:
    """The failure of a call that took too long."""
    detail = f"took longer than timeout_s = {limit:g}; raise it, or make the reward faster"
    return Failure("timeout", detail)


def _is_list(value: Any) -> bool:
    # An array is as good as a list. A text has a length too, and a set, but not one score a sample.
    ordered = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    scalar = getattr(value, "ndim", 1) == 0
    return ordered and not scalar and not isinstance(value, str | bytes | Mapping)


def _plain(value: Any) -> Any:
    """A tensor of one element, or a scalar of numpy, as Python's own."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _wrong_number(value: Any) -> Failure | None:
    if not isinstance(value, numbers.Real):
        what = f"returned {short(repr(value))} ({type(value).__name__})"
        return Failure("wrong_type", f"{what}; return a finite number")
    if not math.isfinite(value):
        return Failure("not_finite", f"returned {float(value)}; return a finite number")
    return None


def _told(error: Exception) -> str:
    if isinstance(error, UserError):
        return short(str(error), DETAIL)
    trace = error.__traceback__
    while trace and trace.tb_next and trace.tb_frame.f_code.co_filename in MACHINERY:
        trace = trace.tb_next
    return f"{where_it_broke(error.with_traceback(trace))}; fix the reward"


def short(text: str, most: int = 80) -> str:
    """The text, cut for a message."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
