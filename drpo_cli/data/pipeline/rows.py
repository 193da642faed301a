"""The rows of the sources, each with its id, and what makes two prompts the same."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Generic, NamedTuple, TypeVar, overload

from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.settings import SourceSettings
from drpo_cli.types import Problem

T = TypeVar("T")

MOST_SHUFFLED = 2**24
"""Rows of the longest source that is shuffled: its order takes 128 MiB. A longer one is `endless`:
read in its own order, and never as a whole."""


class Lazy(Sequence[T], Generic[T]):
    """A sequence of known length whose items are made by `make(index)` when asked for."""

    def __init__(self, length: int, make: Callable[[int], T]) -> None:
        self._range = range(length)
        self._make = make

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self._make(i) for i in self._range[index]]
        return self._make(self._range[index])


class Row(NamedTuple):
    """A problem, the options of the source it is from, and an id that names source and row."""

    problem: Problem
    config: SourceSettings
    id: str


class Source(Lazy[Row]):
    """The rows of one source, under a name that no other source of the run has."""

    def __init__(self, name: str, config: SourceSettings, problems: Sequence[Problem]) -> None:
        super().__init__(len(problems), self._row)
        self.name = name
        self.config = config
        self._problems = problems

    @property
    def endless(self) -> bool:
        """Whether it is too long to be shuffled or read as a whole."""
        return len(self) > MOST_SHUFFLED

    def _row(self, index: int) -> Row:
        id, problem = f"{self.name}/{index}", self._problems[index]
        if not isinstance(problem, Problem):
            raise UserError(
                f"data {id}: the source returned {type(problem).__name__}; "
                "return drpo_cli.types.Problem(prompt, answer, metadata)"
            )
        return Row(problem, self.config, id)


def open_sources(sources: Sequence[Selected[SourceSettings]], prefix: str = "") -> list[Source]:
    """Every source, opened; ids of its rows read `prefix` + `source/row`.

    Raises UserError for a source without rows, or one that returns something else than problems.
    """
    opened = []
    for source, label in zip(sources, labels(sources), strict=True):
        name = prefix + label
        opened.append(Source(name, source.config, _load(source, name)))
    return opened


def chained(sources: Sequence[Source]) -> Sequence[Row]:
    """The rows of all sources as one sequence, one source after the other."""
    ends = list(accumulate(len(rows) for rows in sources))

    def make(index: int) -> Row:
        at = bisect_right(ends, index)
        return sources[at][index - (ends[at - 1] if at else 0)]

    return Lazy(ends[-1] if ends else 0, make)


def _load(source: Selected[SourceSettings], name: str) -> Sequence[Problem]:
    rows: Sequence[Problem] = source.plugin.entry(source.config)
    if not (hasattr(rows, "__len__") and hasattr(rows, "__getitem__")):
        raise UserError(
            f"data {name}: load() returned {type(rows).__name__}; return a list of "
            "problems, or anything with __len__ and __getitem__"
        )
    if len(rows) == 0:
        raise UserError(f"data {name}: the source has no rows; check its options")
    return rows


def labels(sources: Sequence[Selected[SourceSettings]]) -> list[str]:
    """The type, short, and numbered from the second source of the same type on."""
    seen: Counter[str] = Counter()
    found = []
    for source in sources:
        short = source.type.rpartition("/")[2]
        seen[short] += 1
        found.append(short if seen[short] == 1 else f"{short}#{seen[short]}")
    return found


def content(problem: Problem) -> bytes:
    """A hash of the prompt as the source gave it: the same for two rows that ask the same.

    System messages do not count, and a lone user message equals the same text as a string.
    """
    if isinstance(problem.prompt, str):
        turns = [("user", problem.prompt)]
    else:
        turns = [(turn["role"], turn["content"]) for turn in problem.prompt]
        turns = [turn for turn in turns if turn[0] != "system"]
    return hashlib.blake2b(repr(turns).encode(), digest_size=16).digest()
