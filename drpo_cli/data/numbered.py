"""Rows that are only numbers, for environments that make their own start states.

Row i has the number first + i, as its prompt and as `number` in its metadata. The `rng` that
`start` gets is another one each time that a row is served: an environment that should give a row
the same start state every time draws from `random.Random(row.metadata["number"])` instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from drpo_cli.data.pipeline.rows import Lazy
from drpo_cli.settings import Count, SourceSettings
from drpo_cli.types import Problem


class Config(SourceSettings):
    """Options of the numbers."""

    count: Count = 1000
    """How many there are."""
    first: Annotated[int, Field(ge=0)] = 0
    """The first of them; other sources with other numbers have other problems."""


def load(config: Config) -> Sequence[Problem]:
    """All numbers, in order; each row is made when it is read."""

    def make(index: int) -> Problem:
        number = config.first + index
        return Problem(prompt=str(number), metadata={"number": number})

    return Lazy(config.count, make)
