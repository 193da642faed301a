"""The rewards of the rare-token study."""

from __future__ import annotations

MARKERS = (".", "*")
RARE = "*"


def marked(completion: str, answer: str) -> float:
    """1 for the right sum behind the rare marker: `*640` for `12+34=`."""
    return float(completion == RARE + answer)


def right(completion: str, answer: str) -> float:
    """1 for the right sum behind either marker: what the reward above leaves out."""
    return float(completion[:1] in MARKERS and completion[1:] == answer)
