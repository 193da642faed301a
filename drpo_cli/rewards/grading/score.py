"""Calls a reward that is set up in this process, and checks what it returns.

It catches every exception of the reward: that is the user's code.
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

from drpo_cli import secrets
from drpo_cli.errors import UserError
from drpo_cli.plugins import where_it_broke
from drpo_cli.rewards.grading import contract as _contract
from drpo_cli.rewards.grading.contract import Call, Reward

MACHINERY = (__file__, _contract.__file__)
DETAIL = 2000
"""Most characters of a failure's message: it may quote a whole completion."""


class Failure(NamedTuple):
    """Why a call gave no scores: a kind to count by, and a message."""

    kind: str
    detail: str


class Outcome(NamedTuple):
    """The result of a call: one score for each of its samples, or a failure."""

    scores: tuple[float, ...]
    failure: Failure | None = None
    seconds: float = 0.0
    counts: Mapping[str, float] = {}


class ReadyReward:
    """A reward that is set up in this process. Raises UserError when its set-up fails."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        try:
            self.function = reward.set_up()
        except Exception as error:
            raise UserError(
                f"reward {reward.name!r}: its set-up failed: {_explain(error)}"
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
            return Outcome((), timeout_failure(limit), seconds, self._take_counts())

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
            except Exception as error:
                failure = Failure("exception", _explain(error))
                if isinstance(error, UserError):
                    break  # another try would not help
        return Outcome((), failure, time.perf_counter() - began, self._take_counts())

    def _arguments(self, call: Call) -> dict[str, Any]:
        if "config" in self.reward.asks:
            return {**call.arguments, "config": self.reward.config}
        return call.arguments

    def _check(self, value: Any, call: Call, began: float) -> Outcome:
        """The outcome of a call that returned `value`."""
        seconds, counts = time.perf_counter() - began, self._take_counts()
        values = value if self.reward.whole_group else [value]
        size = len(call.samples)
        if not _is_list(values) or len(values) != size:
            what = f"{len(values)} scores" if _is_list(values) else short(repr(values))
            kind = "wrong_length" if _is_list(values) else "wrong_type"
            detail = f"returned {what} for {size} samples; return a list with one score per sample"
            return Outcome((), Failure(kind, detail), seconds, counts)
        plain = [_as_python(one) for one in values]
        failure = next((wrong for wrong in map(_find_fault, plain) if wrong), None)
        scores = () if failure else tuple(float(one) for one in plain)
        return Outcome(scores, failure, seconds, counts)

    def _take_counts(self) -> dict[str, float]:
        """What the reward has counted since the last call of this."""
        counts = getattr(self.function, "counts", None)
        if not isinstance(counts, Counter):
            return {}
        taken = {str(k): float(n) if n % 1 else int(n) for k, n in counts.items()}
        counts.clear()
        return taken


def seed_generators(seed: int) -> None:
    """Makes a reward's random numbers depend on its sample only, not on the process it runs in."""
    import numpy

    random.seed(seed)
    numpy.random.seed(seed)


def timeout_failure(limit: float) -> Failure:
    """The failure of a call that took too long."""
    detail = f"took longer than timeout_s = {limit:g}; raise it, or make the reward faster"
    return Failure("timeout", detail)


def _is_list(value: Any) -> bool:
    # An array is as good as a list. A text and a set have a length, but not one score per sample.
    ordered = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    scalar = getattr(value, "ndim", 1) == 0
    return ordered and not scalar and not isinstance(value, str | bytes | Mapping)


def _as_python(value: Any) -> Any:
    """A tensor with one element, or a numpy scalar, as a Python number."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _find_fault(value: Any) -> Failure | None:
    if not isinstance(value, numbers.Real):
        what = f"returned {short(repr(value))} ({type(value).__name__})"
        return Failure("wrong_type", f"{what}; return a finite number")
    if not math.isfinite(value):
        return Failure("not_finite", f"returned {float(value)}; return a finite number")
    return None


def _explain(error: Exception) -> str:
    if isinstance(error, UserError):
        return short(str(error), DETAIL)
    trace = error.__traceback__
    while trace and trace.tb_next and trace.tb_frame.f_code.co_filename in MACHINERY:
        trace = trace.tb_next
    return f"{where_it_broke(error.with_traceback(trace))}; fix the reward"


def short(text: str, most: int = 80) -> str:
    """The text, cut for a message; masked before, or half a secret would be left."""
    text = secrets.mask(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"
