"""The parts of a row of the bench, and how times are taken."""

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
"""`full` gives the reported figures; `smoke` is tiny and only shows that a row runs."""


@dataclass(frozen=True)
class Goal:
    """The goal of one figure of a row.

    text     the figure in words, with its unit unless it is a ratio
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
    """The result of a row.

    figures  for each of the row's goals, one figure per repetition
    notes    the values behind the figures: seconds, tokens/s, sizes; JSON values
    """

    figures: tuple[tuple[float, ...], ...]
    notes: dict[str, Any] = field(default_factory=dict)


def seconds(work: Callable[[], object]) -> float:
    """Returns the seconds that `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def time_pairs(
    a: Callable[[], object], b: Callable[[], object], pairs: int, warm: int = 1
) -> list[tuple[float, float]]:
    """Times A and B alternately, A B A B …; the first `warm` pairs do not count.

    The state of a machine changes more slowly than a pair takes, so it cancels in A ÷ B.
    """
    taken = [(seconds(a), seconds(b)) for _ in range(warm + pairs)]
    return taken[warm:]


def ratios(pairs: Sequence[tuple[float, float]]) -> tuple[float, ...]:
    """A ÷ B of each pair."""
    return tuple(a / b for a, b in pairs)


def in_own_process(work: Callable[..., R], *arguments: Any, threads: int | None = None) -> R:
    """Runs `work(*arguments)` in a fresh interpreter with `threads` OpenMP threads (None: as here).

    `work` is a function at the top level of a module; arguments and result are pickled. An
    exception of `work` is raised here.
    """
    with _threads(threads):
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as process:
            return process.submit(work, *arguments).result()


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    # A library reads this once, when it loads, so it must be set before the process starts.
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
