"""Short questions whose answers are words of a whole vocabulary: an animal with the letter B."""

from __future__ import annotations

from drpo_cli.settings import SourceSettings
from drpo_cli.types import Problem

KINDS = (
    "an animal",
    "a bird",
    "a boy's name",
    "a city",
    "a colour",
    "a country",
    "a fruit",
    "a girl's name",
    "a job",
    "a plant",
    "a river",
    "a sport",
    "a thing in a kitchen",
    "a tool",
    "a verb",
    "an adjective",
)
LETTERS = "ABCDEFGHIKLMNOPRSTVW"


class Config(SourceSettings):
    """There are no options of its own."""


def load(config: Config) -> list[Problem]:
    """One problem for each kind of word and each letter; the answer is the letter."""
    return [
        Problem(prompt=f"Name {kind} that begins with the letter {letter}.", answer=letter)
        for kind in KINDS
        for letter in LETTERS
    ]
