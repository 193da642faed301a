"""Whose turn it is among sources that have weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


class Turns:
    """Smooth weighted round robin: each turn goes to the source furthest behind its share.

    A source is never a whole turn ahead of its share, so with weights that are whole numbers
    every sum(weights) turns give each source exactly its weight. Exact arithmetic, no randomness;
    `taken` counts each source's turns and is all there is to save.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        # Of the number as it is written: 0.1 is a tenth, not the float next to it.
        parts = [Fraction(repr(weight)) for weight in weights]
        scale = math.lcm(*(part.denominator for part in parts))
        self._shares = [int(part * scale) for part in parts]
        self.taken = [0] * len(parts)

    def next(self) -> int:
        """The source of the next prompt; the first of several that are equally far behind."""
        turn, total = sum(self.taken) + 1, sum(self._shares)
        behind = [
            turn * share - taken * total
            for share, taken in zip(self._shares, self.taken, strict=True)
        ]
        source = behind.index(max(behind))
        self.taken[source] += 1
        return source
