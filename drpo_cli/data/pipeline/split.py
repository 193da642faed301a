"""Which rows train and which are held out; no tokenizer needed.

The choice depends on the sources and on the number of problems, never on the run's seed or on the
sources' weights: runs of different seeds and mixtures are compared on the same problems.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Literal

from drpo_cli.data.pipeline.rows import Lazy, Row, Source, chained, content, open_sources
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.settings import Shot, SourceSettings
from drpo_cli.types import Problem

if TYPE_CHECKING:
    import numpy as np

HELD_OUT_KEY = (2606, 9821, 1)
"""Seed of the held-out choice: three numbers, so that no (run seed, epoch) shuffles alike."""
PATIENCE = 10_000
"""Rows of an endless source that bring nothing, one after the other, until it is given up."""


@dataclass(frozen=True)
class Split:
    """Training and held-out rows.

    `sources` hold all rows of the training sources; the held-out ones, and every other row that
    asks the same as one of them, are left out by `trains`.
    """

    sources: Sequence[Source]
    held_out_rows: list[Row]
    held_out_keys: frozenset[bytes]

    @property
    def held_out(self) -> list[Problem]:
        """The evaluation problems, no two of them alike."""
        return [row.problem for row in self.held_out_rows]

    @cached_property
    def rows(self) -> Sequence[Row]:
        """All rows of the training sources, one source after the other."""
        return chained(self.sources)

    @property
    def weighted(self) -> bool:
        """Whether the sources have shares of their own; one alone has no use for a weight."""
        return len(self.sources) > 1 and all(s.config.weight is not None for s in self.sources)

    @cached_property
    def pools(self) -> Sequence[Sequence[Row]]:
        """What training draws from: every source where they have weights, else all as one."""
        return self.sources if self.weighted or len(self.sources) == 1 else [self.rows]

    @cached_property
    def train(self) -> Sequence[Problem]:
        """The training problems; the first use reads every row once.

        Raises UserError for an endless source.
        """
        if too_long := [source for source in self.sources if source.endless]:
            raise UserError(
                f"data {too_long[0].name}: {len(too_long[0])} rows are too many to be read as a "
                "whole; give the source fewer"
            )
        indices = [i for i, row in enumerate(self.rows) if self.trains(row)]
        return Lazy(len(indices), lambda i: self.rows[indices[i]].problem)

    def trains(self, row: Row) -> bool:
        """Whether a row may be trained on: it asks nothing held out, and no few-shot example."""
        key = content(row.problem)
        return key not in self.held_out_keys and key not in _example_keys(row.config.few_shot)


def split(
    sources: Sequence[Selected[SourceSettings]],
    eval_sources: Sequence[Selected[SourceSettings]],
    eval_problems: int,
    overlap: Literal["refuse", "drop"] = "refuse",
) -> Split:
    """Hold out `eval_problems` problems of `eval_sources`, or of `sources` when there are none.

    Evaluation sources with fewer problems give all they have. Raises UserError when nothing would
    be left to train on, for a few-shot example that is held out, and, unless `overlap` is "drop",
    for a training row that asks the same as a problem of `eval_sources`.
    """
    trained = open_sources(sources)
    _refuse_mixture(trained)
    pool = open_sources(eval_sources, prefix="eval:") if eval_sources else trained
    held_out = _choose(pool, eval_problems)
    _refuse_examples([*trained, *(pool if eval_sources else ())], held_out)
    if eval_sources and overlap == "refuse":
        _refuse_overlap(trained, held_out)
    result = Split(trained, list(held_out.values()), frozenset(held_out))
    _refuse_nothing_left(result, eval_problems)
    return result


def shuffled(length: int, *key: int) -> np.ndarray:
    """The numbers below `length` in an order that depends on `key` alone, int64 [length]."""
    import numpy as np  # half of what `drpo check` would take to start

    return np.random.default_rng(key).permutation(length)


def endless(rows: Sequence[Row]) -> bool:
    """Whether these are the rows of an endless source."""
    return isinstance(rows, Source) and rows.endless


def _choose(pool: Sequence[Source], problems: int) -> dict[bytes, Row]:
    """The first `problems` distinct rows of the pool in its held-out order, by content."""
    without_end = any(source.endless for source in pool)
    held_out: dict[bytes, Row] = {}
    fruitless = 0
    for row in _in_turn(pool) if without_end else _shuffled(chained(pool), *HELD_OUT_KEY):
        if len(held_out) == problems or (without_end and fruitless == PATIENCE):
            break
        key = content(row.problem)
        fruitless = fruitless + 1 if key in held_out else 0
        held_out.setdefault(key, row)
    return held_out


def _shuffled(rows: Sequence[Row], *key: int) -> Iterator[Row]:
    return (rows[i] for i in shuffled(len(rows), *key))


def _in_turn(pool: Sequence[Source]) -> Iterator[Row]:
    """One row of each source after the other, as long as there are any."""
    left: list[Iterator[Row]] = [
        iter(source) if source.endless else _shuffled(source, *HELD_OUT_KEY, at)
        for at, source in enumerate(pool)
    ]
    while left:
        for rows in list(left):
            try:
                yield next(rows)
            except StopIteration:
                left.remove(rows)


@lru_cache
def _example_keys(few_shot: tuple[Shot, ...]) -> frozenset[bytes]:
    return frozenset(content(Problem(shot.prompt)) for shot in few_shot)


def _refuse_examples(sources: Iterable[Source], held_out: dict[bytes, Row]) -> None:
    for source in sources:
        for index, shot in enumerate(source.config.few_shot):
            row = held_out.get(content(Problem(shot.prompt)))
            if row is not None:
                raise UserError(
                    f"data {source.name}: few_shot[{index}] asks the same as the held-out problem "
                    f"{row.id}, whose answer it would give away; write another example"
                )


def _refuse_overlap(sources: Iterable[Source], held_out: dict[bytes, Row]) -> None:
    same = [
        (row.id, held_out[key].id)
        for source in sources
        if not source.endless
        for row in source
        if (key := content(row.problem)) in held_out
    ]
    if same:
        raise UserError(
            f"data: training row {same[0][0]} asks the same as the held-out problem {same[0][1]}"
            f"{f' ({len(same)} rows do so in all)' if len(same) > 1 else ''}; take it out of one "
            'of the two, or set eval.overlap = "drop" to leave such rows out of training'
        )


def _refuse_mixture(sources: Sequence[Source]) -> None:
    for source in sources:
        if source.endless and len(sources) > 1 and source.config.weight is None:
            raise UserError(
                f"data {source.name}: with {len(source)} rows it would hide the other sources, "
                "since rows are drawn alike from all; give every [[data]] a weight"
            )
        if source.endless and source.config.sampling == "difficulty":
            raise UserError(
                f'data {source.name}: sampling = "difficulty" needs rows that come back, and none '
                f'of {len(source)} will; set it to "uniform", or give the source fewer rows'
            )


def _refuse_nothing_left(data: Split, eval_problems: int) -> None:
    for pool in data.pools:
        some = islice(pool, PATIENCE + len(data.held_out_rows)) if endless(pool) else pool
        if not any(data.trains(row) for row in some):
            whose = f"source {pool.name}" if isinstance(pool, Source) else "the training sources"
            raise UserError(
                f"data: nothing is left to train on: all {len(pool)} rows of {whose} are, or "
                f"equal, one of the {len(data.held_out_rows)} held-out problems (eval.problems = "
                f"{eval_problems}) or a few-shot example; lower eval.problems, add data, or name "
                "other evaluation data under [[eval.data]]"
            )
