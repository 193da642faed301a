"""Splits the rows into training and held-out ones, without a tokenizer.

The held-out choice depends on the sources and on the number of problems, never on the run's seed or
on the weights of sources: runs of different seeds and mixtures are compared on the same problems.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Literal

from drpo_cli.data.pipeline.rows import (
    Lazy,
    Row,
    Source,
    chain,
    hash_question,
    is_endless,
    open_sources,
)
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.settings import Shot, SourceSettings
from drpo_cli.types import Problem

if TYPE_CHECKING:
    import numpy as np

HELD_OUT_KEY = (2606, 9821, 1)
"""Seed of the held-out choice: three numbers, so that no (run seed, epoch) shuffles alike."""
NO_SUITES: Mapping[str, Sequence[Row]] = {}
PATIENCE = 10_000
"""Unusable rows of an endless source, one after the other, after which the search stops."""


@dataclass(frozen=True)
class Split:
    """Training and held-out rows.

    sources          all rows of the training sources; `trains` says which of them train
    held_out_rows    the evaluation problems, no two of them alike
    held_out_hashes  hashes of what they and the problems of suites ask
    """

    sources: Sequence[Source]
    held_out_rows: list[Row]
    held_out_hashes: frozenset[bytes]

    @property
    def held_out(self) -> list[Problem]:
        """The evaluation problems."""
        return [row.problem for row in self.held_out_rows]

    @cached_property
    def rows(self) -> Sequence[Row]:
        """All rows of the training sources, one source after the other."""
        return chain(self.sources)

    @property
    def weighted(self) -> bool:
        """Whether each source has its own share. The weight of a single source has no effect."""
        return len(self.sources) > 1 and all(s.config.weight is not None for s in self.sources)

    @cached_property
    def pools(self) -> Sequence[Sequence[Row]]:
        """The pools that training draws from: one per source with weights, else one for all."""
        return self.sources if self.weighted or len(self.sources) == 1 else [self.rows]

    @cached_property
    def train(self) -> Sequence[Problem]:
        """The training problems. The first use reads every row once.

        Raises UserError for an endless source.
        """
        for source in self.sources:
            if is_endless(source):
                raise UserError(
                    f"data {source.name}: {len(source)} rows are too many to be read as a whole",
                    "give the source fewer",
                )
        indices = [i for i, row in enumerate(self.rows) if self.trains(row)]
        return Lazy(len(indices), lambda i: self.rows[indices[i]].problem)

    def trains(self, row: Row) -> bool:
        """Whether a row may train: no held-out problem and no few-shot example asks the same."""
        asked = hash_question(row.problem)
        return asked not in self.held_out_hashes and asked not in _hash_shots(row.config.few_shot)


def split(
    sources: Sequence[Selected[SourceSettings]],
    eval_sources: Sequence[Selected[SourceSettings]],
    eval_problems: int,
    overlap: Literal["refuse", "drop"] = "refuse",
    of_suites: Mapping[str, Sequence[Row]] = NO_SUITES,
) -> Split:
    """Holds out `eval_problems` problems of `eval_sources`, or of `sources` when there are none.

    Evaluation sources with fewer problems give all of theirs. Raises UserError when nothing is left
    to train on, when a few-shot example is held out, and, unless `overlap` is "drop", when a
    training row asks the same as a problem of `eval_sources` or `of_suites`, which are rows by the
    name of their suite.
    """
    train = open_sources(sources)
    _check_mixture(train)
    pool = open_sources(eval_sources, prefix="eval:") if eval_sources else train
    held_out = _choose_held_out(pool, eval_problems)
    own = _name(held_out)
    of_others = {
        hash_question(row.problem): f"{row.id} of the suite {name}"
        for name, rows in of_suites.items()
        for row in rows
    }
    _check_examples([*train, *(pool if eval_sources else ())], of_others | own)
    if overlap == "refuse":
        _check_overlap(train, of_others | (own if eval_sources else {}))
    result = Split(train, list(held_out.values()), frozenset(of_others | own))
    _check_something_left(result, eval_problems)
    return result


def hold_out(
    sources: Sequence[Selected[SourceSettings]],
    eval_sources: Sequence[Selected[SourceSettings]],
    eval_problems: int,
) -> list[Row]:
    """The held-out rows that `split` chooses, where nothing is trained.

    Raises UserError when a few-shot example is held out.
    """
    pool = open_sources(eval_sources, prefix="eval:") if eval_sources else open_sources(sources)
    held_out = _choose_held_out(pool, eval_problems)
    _check_examples(pool, _name(held_out))
    return list(held_out.values())


def shuffle(length: int, *key: int) -> np.ndarray:
    """The numbers below `length` in an order that depends on `key` alone, int64 [length]."""
    import numpy as np  # takes half of the time that `drpo check` takes to start

    return np.random.default_rng(key).permutation(length)


def _choose_held_out(pool: Sequence[Source], problems: int) -> dict[bytes, Row]:
    """The first `problems` distinct rows of the pool in its held-out order, by hash."""
    endless = any(is_endless(source) for source in pool)
    order = _take_turns(pool) if endless else _shuffle_rows(chain(pool), *HELD_OUT_KEY)
    held_out: dict[bytes, Row] = {}
    repeated = 0
    for row in order:
        if len(held_out) == problems or (endless and repeated == PATIENCE):
            break
        asked = hash_question(row.problem)
        repeated = repeated + 1 if asked in held_out else 0
        held_out.setdefault(asked, row)
    return held_out


def _name(held_out: Mapping[bytes, Row]) -> dict[bytes, str]:
    """The ids of rows, by what they ask."""
    return {asked: row.id for asked, row in held_out.items()}


def _shuffle_rows(rows: Sequence[Row], *key: int) -> Iterator[Row]:
    return (rows[i] for i in shuffle(len(rows), *key))


def _take_turns(pool: Sequence[Source]) -> Iterator[Row]:
    """One row of each source after the other, until no source has rows left."""
    left: list[Iterator[Row]] = [
        iter(source) if is_endless(source) else _shuffle_rows(source, *HELD_OUT_KEY, at)
        for at, source in enumerate(pool)
    ]
    while left:
        for rows in list(left):
            try:
                yield next(rows)
            except StopIteration:
                left.remove(rows)


@lru_cache
def _hash_shots(few_shot: tuple[Shot, ...]) -> frozenset[bytes]:
    return frozenset(hash_question(Problem(shot.prompt)) for shot in few_shot)


def _check_mixture(sources: Sequence[Source]) -> None:
    for source in filter(is_endless, sources):
        if len(sources) > 1 and source.config.weight is None:
            raise UserError(
                f"data {source.name}: with {len(source)} rows it would hide the other sources, "
                "since without weights every row is equally likely",
                "give every [[data]] a weight",
            )
        if source.config.sampling == "difficulty":
            raise UserError(
                f'data {source.name}: sampling = "difficulty" needs rows that come back, and none '
                f"of {len(source)} will",
                'set it to "uniform", or give the source fewer rows',
            )


def _check_examples(sources: Iterable[Source], held_out: Mapping[bytes, str]) -> None:
    for source in sources:
        for index, shot in enumerate(source.config.few_shot):
            same = held_out.get(hash_question(Problem(shot.prompt)))
            if same is not None:
                raise UserError(
                    f"data {source.name}: few_shot[{index}] asks the same as the held-out problem "
                    f"{same}, and would give its answer away",
                    "write another example",
                )


def _check_overlap(sources: Iterable[Source], held_out: Mapping[bytes, str]) -> None:
    same = [
        (row.id, held_out[asked])
        for source in sources
        if held_out and not is_endless(source)
        for row in source
        if (asked := hash_question(row.problem)) in held_out
    ]
    if same:
        (train_id, eval_id), count = same[0], len(same)
        raise UserError(
            f"data: training row {train_id} asks the same as the held-out problem {eval_id}"
            f"{f' ({count} rows do so in all)' if count > 1 else ''}",
            'remove it from one of the two, or set eval.overlap = "drop" to leave such rows out '
            "of training",
        )


def _check_something_left(data: Split, eval_problems: int) -> None:
    for pool in data.pools:
        some = islice(pool, PATIENCE + len(data.held_out_rows)) if is_endless(pool) else pool
        if not any(data.trains(row) for row in some):
            whose = f"source {pool.name}" if isinstance(pool, Source) else "the training sources"
            raise UserError(
                f"data: nothing is left to train on: each of the {len(pool)} rows of {whose} asks "
                f"the same as one of the {len(data.held_out_rows)} held-out problems "
                f"(eval.problems = {eval_problems}) or as a few-shot example",
                "lower eval.problems, add data, or name other evaluation data in [[eval.data]]",
            )
