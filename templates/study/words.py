"""Short tasks whose answers may be words of a whole vocabulary: three words with given letters."""

from __future__ import annotations

import random

from drpo_cli.settings import SourceSettings
from drpo_cli.types import Problem

LETTERS = "ABCDEFGHIKLMNOPRSTVW"
PROBLEMS = 600


class Config(SourceSettings):
    """There are no options of its own."""


def load(config: Config) -> list[Problem]:
    """Problems with three different letters each; the answer is the letters."""
    rng = random.Random(0)
    chosen: dict[str, None] = {}
    while len(chosen) < PROBLEMS:
        chosen["".join(rng.sample(LETTERS, 3))] = None
    return [
        Problem(
            prompt=f"Write three words that begin with the letters {a}, {b} and {c}.",
            answer=f"{a}{b}{c}",
        )
        for a, b, c in chosen
    ]
