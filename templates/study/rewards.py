"""The rewards of the parts with rare tokens and with a real model."""

from __future__ import annotations

import re

MARKERS = (".", "*")
RARE = "*"


def marked(completion: str, answer: str) -> float:
    """1 for the right sum after the rare marker: `*640` for `12+34=`."""
    return float(completion == RARE + answer)


def begin(completion: str, answer: str) -> float:
    """The share of the letters with which the word at the same place begins."""
    words = re.findall(r"[^\W\d_]+", completion)
    return sum(a == word[0].upper() for a, word in zip(answer, words, strict=False)) / len(answer)


def right(completion: str, answer: str) -> float:
    """1 for the right sum after either marker; for the log only."""
    return float(completion[:1] in MARKERS and completion[1:] == answer)
