"""Which rows train and which are held out; no tokenizer needed.

The split depends on the sources and on the number of problems, never on the run's seed: runs of
different seeds are compared on the same problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from drpo_cli.data._rows import Lazy, Row, content, open_rows
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.types import Problem

if TYPE_CHECKING:
    import numpy as np

HELD_OUT_KEY = (2606, 9821, 1)
"""Seed of the held-out choice: three numbers, so that no (run seed, epoch) shuffles alike."""


@dataclass(frozen=True)
class Split:
    """Training and held-out rows.

    `rows` are all rows of the training sources; the held-out ones, and every other row that asks
    the same as one of them, are left out by `trains`.
    """

    rows: Sequence[Row]
    held_out_rows: list[Row]
    held_out_keys: frozenset[bytes]

    @property
    def held_out(self) -> list[Problem]:
        """The evaluation problems, no two of them alike."""
        return [row.problem for row in self.held_out_rows]

    @cached_property
    def train(self) -> Sequence[Problem]:
        """The training problems; the first use reads every row once."""
        indices = [i for i, row in enumerate(self.rows) if self.trains(row)]
        return Lazy(len(indices), lambda i: self.rows[indices[i]].problem)

    def trains(self, row: Row) -> bool:
        """Whether a row may be trained on: it asks nothing that is held out."""
        return content(row.problem) not in self.held_out_keys


def split(
    sources: Sequence[Selected], eval_sources: Sequence[Selected], eval_problems: int
) -> Split:
    """Hold out `eval_problems` problems of `eval_sources`, or of `sources` when there are none.

    Evaluation sources with fewer problems give all they have. Raises UserError when nothing
    would be left to train on.
    """
    rows = open_rows(sources)
    pool = open_rows(eval_sources, prefix="eval:") if eval_sources else rows
    held_out: dict[bytes, Row] = {}
    for index in shuffled(len(pool), *HELD_OUT_KEY):
        if len(held_out) == eval_problems:
            break
        row = pool[index]
        held_out.setdefault(content(row.problem), row)
    result = Split(rows, list(held_out.values()), frozenset(held_out))
    if not any(result.trains(row) for row in rows):
        raise UserError(
            f"data: nothing is left to train on: all {len(rows)} rows of the training sources "
            f"are, or equal, one of the {len(held_out)} held-out problems "
            f"(eval.problems = {eval_problems}); lower eval.problems, add data, or name other "
            "evaluation data under [[eval.data]]"
        )
    return result


def shuffled(length: int, *key: int) -> np.ndarray:
    """The numbers below `length` in an order that depends on `key` alone, int64 [length]."""
    import numpy as np  # half of what `drpo check` would take to start

    return np.random.default_rng(key).permutation(length)
