"""Charts of one line: a curve of blocks, and a bar of where the time goes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from rich.text import Text

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-:=+*#"

PHASES = (
    ("R", "rollout", "rollout", "white on blue"),
    ("W", "reward", "reward not hidden", "black on yellow"),
    ("T", "train", "train", "black on green"),
    ("S", "sync", "sync", "white on magenta"),
)
OTHER = ("O", "other", "black on white")
RECENT = 20  # steps that the bar is about


def sparkline(values: Sequence[float | None], width: int, levels: str = BLOCKS) -> str:
    """The values as at most `width` blocks, from the least to the greatest of them.

    More values than blocks are averaged; a gap is a space.
    """
    points = [_mean(part) for part in _parts(values, width)]
    known = [point for point in points if point is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    scale = (len(levels) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if p is None else levels[round((p - low) * scale)] for p in points)


def shares(metrics: Sequence[Mapping[str, object]]) -> dict[str, float]:
    """Share of the last steps' seconds by letter of the phase; empty where none is recorded."""
    sums: dict[str, float] = {}
    for record in metrics[-RECENT:]:
        seconds = record.get("seconds")
        if not isinstance(seconds, Mapping):
            continue
        for name, value in seconds.items():
            sums[name] = sums.get(name, 0.0) + (value or 0.0)
    total = sums.pop("step", 0.0)
    if total <= 0:
        return {}
    found = {letter: sums.get(key, 0.0) / total for letter, key, _, _ in PHASES}
    return {**found, OTHER[0]: max(0.0, 1 - sum(found.values()))}


def time_bar(found: Mapping[str, float], width: int) -> Text:
    """The shares as letters on colours, so that it reads without colour too."""
    styles = {letter: style for letter, _, _, style in PHASES} | {OTHER[0]: OTHER[2]}
    cells = _cells(list(found.values()), width)
    bar = Text()
    for letter, count in zip(found, cells, strict=True):
        bar.append(letter * count, styles[letter])
    return bar


def time_legend(found: Mapping[str, float]) -> str:
    """What the bar's letters mean, with their shares."""
    names = {letter: name for letter, _, name, _ in PHASES} | {OTHER[0]: OTHER[1]}
    return "  ".join(f"{letter} {names[letter]} {share:.0%}" for letter, share in found.items())


def _cells(portions: Sequence[float], width: int) -> list[int]:
    # Largest remainders: the cells add up to the width
    exact = [portion * width for portion in portions]
    cells = [math.floor(value) for value in exact]
    order = sorted(range(len(exact)), key=lambda i: cells[i] - exact[i])
    for i in order[: max(0, width - sum(cells))]:
        cells[i] += 1
    return cells


def _parts(values: Sequence[float | None], width: int) -> list[Sequence[float | None]]:
    count = min(len(values), max(0, width))
    cuts = [i * len(values) // count for i in range(count + 1)] if count else []
    return [values[a:b] for a, b in pairwise(cuts)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
