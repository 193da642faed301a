"""Curves over steps, as charts are made of them: lines, bands between two lines, panels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Series = Sequence[tuple[float, float]]
"""Points (step, value), NaN where a step has none."""

Metrics = Sequence[Mapping[str, Any]]
"""Records of steps, in order."""

# Okabe and Ito's palette for all kinds of colour vision, less black and yellow, which one of the
# themes would swallow.
COLOURS = ("#2484c6", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a8a")
DASHES = ("solid", "dashed", "dotted", "dotdash", "dashdot")
MOST_STEPS = 2000
"""Steps of a run that are drawn; of more, every second or third or so is."""


@dataclass(frozen=True)
class Line:
    """One curve; `marks` puts a dot on each point."""

    label: str
    points: Series
    colour: str
    dash: str = "solid"
    width: float = 1.5
    marks: bool = False


@dataclass(frozen=True)
class Band:
    """The area between two curves of the same steps."""

    label: str
    low: Series
    high: Series
    colour: str
    alpha: float = 0.2


@dataclass(frozen=True)
class Panel:
    """One chart. `key` is its name in the page: letters, digits, `-`."""

    key: str
    title: str
    lines: Sequence[Line]
    bands: Sequence[Band] = ()
    log: bool = False
    share: bool = False

    @property
    def drawn(self) -> bool:
        """Whether there is anything to draw."""
        return any(
            map(known, [*(line.points for line in self.lines), *(band.high for band in self.bands)])
        )


def known(points: Series) -> list[tuple[float, float]]:
    """The points that have a value."""
    return [(step, value) for step, value in points if math.isfinite(value)]


def series(metrics: Sequence[Mapping[str, Any]], *path: str) -> Series:
    """A metric by its key, and the keys inside that, over the steps that have it.

    One that most of the records have keeps their steps, with NaN where it is missing, so that a
    step that was skipped shows as a gap.
    """
    points = [(float(r["step"]), _value(r, path)) for r in metrics]
    there = known(points)
    return points if 2 * len(there) > len(points) else there


def thinned(metrics: Metrics) -> tuple[Metrics, int]:
    """Every n-th record, those with a held-out score and the last one; and n, 1 for all."""
    every = -(-len(metrics) // MOST_STEPS) or 1
    if every == 1:
        return metrics, 1
    last = len(metrics) - 1
    return [
        r for i, r in enumerate(metrics) if i % every == 0 or i == last or "held_out" in r
    ], every


def colour(index: int) -> str:
    """The colour of the line or run of this number."""
    return COLOURS[index % len(COLOURS)]


def _value(record: Mapping[str, Any], path: Sequence[str]) -> float:
    found: Any = record
    for part in path:
        found = found.get(part) if isinstance(found, Mapping) else None
    return math.nan if found is None else float(found)
