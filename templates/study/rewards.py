"""The rewards of the parts with rare tokens and with a real model."""

from __future__ import annotations

MARKERS = (".", "*")
RARE = "*"


def marked(completion: str, answer: str) -> float:
    """1 for the right sum after the rare marker: `*640` for `12+34=`."""
    return float(completion == RARE + answer)


def begins(completion: str, answer: str) -> float:
    """1 for a first word that begins with the letter."""
    letters = (character for character in completion if character.isalpha())
    return float(next(letters, "").upper() == answer)


def right(completion: str, answer: str) -> float:
    """1 for the right sum after either marker; for the log only."""
    return float(completion[:1] in MARKERS and completion[1:] == answer)
