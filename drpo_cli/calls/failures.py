"""Why a call of the user's code gave nothing, and what is shared in checking what it gave."""

from __future__ import annotations

import numbers
import random
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import msgspec

from drpo_cli import secrets
from drpo_cli.errors import UserError
from drpo_cli.plugins import where_it_broke

DETAIL = 2000
"""Most characters of a failure's message: it may quote a whole completion."""
LARGEST = 1e15
"""Largest score, and largest count, in size: their squares and sums stay finite in float32."""

Kind = Literal[
    "exception",
    "timeout",
    "crash",
    "not_finite",
    "wrong_type",
    "wrong_length",
    "too_large",
    "closed",
]


class Failure(NamedTuple):
    """Why a call gave nothing: a kind to count by, and a message."""

    kind: Kind
    detail: Annotated[str, msgspec.Meta(max_length=16 * DETAIL)]


class Outcome(Protocol):
    """What a call gave, or its failure; `seconds` is its time, `counts` are for the metrics."""

    @property
    def failure(self) -> Failure | None:
        """Why it gave nothing."""

    @property
    def seconds(self) -> float:
        """Its time, measured in its process."""

    @property
    def counts(self) -> Mapping[str, int | float]:
        """What the user's code counted."""

    def is_valid(self, expected: int) -> bool:
        """Whether it may be the outcome of a call that expects so many results."""


def seed_generators(seed: int) -> None:
    """Makes the random numbers of a call independent of the process that it runs in."""
    import numpy

    random.seed(seed)
    numpy.random.seed(seed)


def flush_prints() -> None:
    """Writes what is left in the buffers of stdout and stderr."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # the user's code may have closed or replaced it
            continue


def timeout_failure(limit: float, noun: str) -> Failure:
    """The failure of a call of a reward, or of another `noun`, that took too long."""
    detail = f"took longer than timeout_s = {limit:g}; raise it, or make the {noun} faster"
    return Failure("timeout", detail)


def short(text: str, most: int = 80) -> str:
    """The text, cut for a message; half a surrogate pair, which cannot be sent, as its escape.

    It is masked before it is cut, or half a secret would be left.
    """
    text = secrets.mask(text)
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return text.encode("utf-8", "backslashreplace").decode()


def is_usable(number: float) -> bool:
    """Whether a number is finite and within ±LARGEST."""
    return -LARGEST <= number <= LARGEST  # not `math`, which the code may change; false for NaN


def take_counts(holder: Any) -> dict[str, int | float]:
    """What the user's code has counted in `holder.counts` since the last call of this."""
    counts = getattr(holder, "counts", None)
    if not isinstance(counts, Counter):
        return {}
    real = {short(str(k)): n for k, n in counts.items() if isinstance(n, numbers.Real)}
    counts.clear()
    taken = {k: float(n) for k, n in real.items() if is_usable(n)}
    return {k: int(n) if n.is_integer() else n for k, n in taken.items()}


def as_python(value: Any) -> Any:
    """A tensor with one element, or a numpy scalar, as a Python number."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def explain(error: BaseException, noun: str, machinery: Collection[str] = ()) -> str:
    """What the user's code raised, and where; `machinery` are files whose frames say nothing."""
    if isinstance(error, UserError):
        return short(str(error), DETAIL)
    trace = error.__traceback__
    while trace and trace.tb_next and trace.tb_frame.f_code.co_filename in machinery:
        trace = trace.tb_next
    try:
        what = where_it_broke(error.with_traceback(trace))
    except BaseException:  # it has a `__str__` of its own
        what = type(error).__name__
    return f"{short(what, 2 * DETAIL)}; fix the {noun}"
