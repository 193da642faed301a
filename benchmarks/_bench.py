"""What a row of the bench is made of, and how it takes its times."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

R = TypeVar("R")

Size = Literal["full", "smoke"]
"""`full` is what is reported; `smoke` shows that a row runs, on next to nothing."""


@dataclass(frozen=True)
class Goal:
    """What a row's figure is, and where it must lie.

    text     the figure in words, its unit included unless it is a ratio
    at_most  whether the figure's median must be ≤ `limit`; else ≥
    """

    text: str
    limit: float
    at_most: bool

    def met(self, median: float) -> bool:
        """Whether a median reaches the goal; NaN does not."""
        return median <= self.limit if self.at_most else median >= self.limit


@dataclass(frozen=True)
class Measured:
    """What a row found.

    figures  for each of the row's goals, its figure, once for each repetition
    notes    what the figures were made of: seconds, tokens/s, sizes; JSON values
    """

    figures: tuple[tuple[float, ...], ...]
    notes: dict[str, Any] = field(default_factory=dict)


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def paired(
    a: Callable[[], object], b: Callable[[], object], pairs: int, warm: int = 1
) -> list[tuple[float, float]]:
    """Seconds of A and of B, taken in turns A B A B …, after `warm` pairs that do not count.

    A machine's mood lasts longer than a pair, so that it divides out of A ÷ B.
    """
    taken = [(seconds(a), seconds(b)) for _ in range(warm + pairs)]
    return taken[warm:]


def ratios(pairs: Sequence[tuple[float, float]]) -> tuple[float, ...]:
    """A ÷ B of each pair."""
    return tuple(a / b for a, b in pairs)


def in_own_process(work: Callable[..., R], *arguments: Any, threads: int | None = None) -> R:
    """`work(*arguments)` in a fresh interpreter, with `threads` OpenMP threads (else as here).

    `work` is a function at the top of a module; arguments and result are pickled. Raises what it
    raises.
    """
    with _threads(threads):
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as process:
            return process.submit(work, *arguments).result()


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    # A library reads it once, when it loads: it has to be there before the process starts.
    before = os.environ.get("OMP_NUM_THREADS")
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        else:
            os.environ["OMP_NUM_THREADS"] = before
