"""The rows of several sources as one sequence, and what makes two prompts the same."""

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


def open_rows(sources: Sequence[Selected], prefix: str = "") -> Sequence[Row]:
    """The rows of all sources, one source after the other; ids read `prefix` + `source/row`.

    Raises UserError for a source without rows, or one that returns something else than problems.
    """
    loaded = [_load(source) for source in sources]
    labels = _labels(sources)
    ends = list(accumulate(len(rows) for rows in loaded))

    def make(index: int) -> Row:
        at = bisect_right(ends, index)
        row = index - (ends[at - 1] if at else 0)
        id = f"{prefix}{labels[at]}/{row}"
        problem = loaded[at][row]
        if not isinstance(problem, Problem):
            raise UserError(
                f"data {id}: the source returned {type(problem).__name__}; "
                "return drpo_cli.types.Problem(prompt, answer, metadata)"
            )
        config = sources[at].config
        assert isinstance(config, SourceSettings)
        return Row(problem, config, id)

    return Lazy(ends[-1] if ends else 0, make)


def _load(source: Selected) -> Sequence[Problem]:
    rows = source.module.load(source.config)
    if not (hasattr(rows, "__len__") and hasattr(rows, "__getitem__")):
        raise UserError(
            f"data {source.type!r}: load() returned {type(rows).__name__}; return a list of "
            "problems, or anything with __len__ and __getitem__"
        )
    if len(rows) == 0:
        raise UserError(f"data {source.type!r}: the source has no rows; check its options")
    return rows


def _labels(sources: Sequence[Selected]) -> list[str]:
    """The type, short, and numbered from the second source of the same type on."""
    seen: Counter[str] = Counter()
    labels = []
    for source in sources:
        short = source.type.rpartition("/")[2]
        seen[short] += 1
        labels.append(short if seen[short] == 1 else f"{short}#{seen[short]}")
    return labels


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
