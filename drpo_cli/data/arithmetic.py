"""Sums of two numbers of a fixed number of digits.

Every ordered pair of numbers below 10^digits is a row, 10^(2·digits) in all. The operands are
zero-padded to `digits` digits and the sum to `digits` + 1, so that all prompts have the same form
and all answers the same length: `12+34=` → `046`, or `640` with `reverse`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from drpo_cli.data.pipeline.rows import Lazy
from drpo_cli.settings import SourceSettings
from drpo_cli.types import Problem


class Config(SourceSettings):
    """Options of the sums."""

    digits: Annotated[int, Field(ge=1, le=3)] = 2
    """Digits of each operand."""
    reverse: bool = False
    """Write the answer's digits least significant first: each carry is then known before the digit
    that it changes, which a small left-to-right model learns more easily."""


def load(config: Config) -> Sequence[Problem]:
    """All sums; each is made when it is read."""
    digits, numbers = config.digits, 10**config.digits

    def make(index: int) -> Problem:
        a, b = divmod(index, numbers)
        answer = f"{a + b:0{digits + 1}d}"
        return Problem(
            prompt=f"{a:0{digits}d}+{b:0{digits}d}=",
            answer=answer[::-1] if config.reverse else answer,
        )

    return Lazy(numbers**2, make)
