"""Rows of data sources: opening sources, naming rows, and telling whether two prompts are equal."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Generic, NamedTuple, TypeVar, overload

from drpo_cli.data.pipeline.problems import clean
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.settings import SourceSettings
from drpo_cli.types import Problem

T = TypeVar("T")

MOST_SHUFFLED = 2**24
"""Rows of the longest source that is shuffled: its order takes 128 MiB. A longer source counts as
endless: it is read in its own order, and never as a whole."""


class Lazy(Sequence[T], Generic[T]):
    """A sequence of known length that calls `make(index)` whenever an item is read."""

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
    """A problem, the options of its source, and an id that names source and row."""

    problem: Problem
    config: SourceSettings
    id: str


class Source(Lazy[Row]):
    """The rows of one source. Its name is unique within the run."""

    def __init__(self, name: str, config: SourceSettings, problems: Sequence[Problem]) -> None:
        super().__init__(len(problems), self._make_row)
        self.name = name
        self.config = config
        self._problems = problems

    def _make_row(self, index: int) -> Row:
        id, problem = f"{self.name}/{index}", self._problems[index]
        if not isinstance(problem, Problem):
            raise UserError(
                f"data {id}: the source returned {type(problem).__name__}",
                "return drpo_cli.types.Problem(prompt, answer, metadata)",
            )
        return Row(clean(problem, self.config, f"data {id}"), self.config, id)


def is_endless(rows: Sequence[Row]) -> bool:
    """Whether `rows` is a source that is too long to be shuffled or read as a whole."""
    return isinstance(rows, Source) and len(rows) > MOST_SHUFFLED


def open_sources(sources: Sequence[Selected[SourceSettings]], prefix: str = "") -> list[Source]:
    """Opens every source; ids of rows are `prefix` + `source/row`.

    Raises UserError for a source that has no rows or is not a sequence.
    """
    opened = []
    for source, name in zip(sources, name_sources(sources), strict=True):
        rows = source.plugin.entry(source.config)
        if not (hasattr(rows, "__len__") and hasattr(rows, "__getitem__")):
            raise UserError(
                f"data {prefix + name}: load() returned {type(rows).__name__}",
                "return a list of problems, or anything with __len__ and __getitem__",
            )
        if len(rows) == 0:
            raise UserError(f"data {prefix + name}: the source has no rows", "check its options")
        opened.append(Source(prefix + name, source.config, rows))
    return opened


def name_sources(sources: Sequence[Selected[SourceSettings]]) -> list[str]:
    """Names each source by its type; from the second of the same type on, adds a number."""
    seen: Counter[str] = Counter()
    names = []
    for source in sources:
        short = source.type.rpartition("/")[2]
        seen[short] += 1
        names.append(short if seen[short] == 1 else f"{short}#{seen[short]}")
    return names


def chain(sources: Sequence[Source]) -> Sequence[Row]:
    """Joins the rows of all sources into one sequence, one source after the other."""
    ends = list(accumulate(len(rows) for rows in sources))

    def make(index: int) -> Row:
        at = bisect_right(ends, index)
        return sources[at][index - (ends[at - 1] if at else 0)]

    return Lazy(ends[-1] if ends else 0, make)


def hash_question(problem: Problem) -> bytes:
    """Hashes the prompt as the source gave it: equal hashes mean that two rows ask the same.

    System messages do not count, and a single user message equals the same text as a string.
    """
    if isinstance(problem.prompt, str):
        turns = [("user", problem.prompt)]
    else:
        turns = [(turn["role"], turn["content"]) for turn in problem.prompt]
        turns = [turn for turn in turns if turn[0] != "system"]
    return hashlib.blake2b(repr(turns).encode(), digest_size=16).digest()
