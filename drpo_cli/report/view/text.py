"""Text for a terminal: numbers, times, curves of blocks, and untrusted text made harmless."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from drpo_cli.runs.metrics import StepMetrics
from drpo_cli.terminal import escape

_ESCAPED = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}  # move a cursor, or have an unknown width
_SELECTORS = range(0xFE00, 0xFE10)  # change the width of the character in front

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-:=+*#"

PHASES = (
    ("R", "rollout", "rollout", "white on blue"),
    ("W", "reward", "reward not hidden", "black on yellow"),
    ("T", "train", "train", "black on green"),
    ("S", "sync", "sync", "white on magenta"),
)
OTHER = ("O", "other", "black on white")
RECENT = 20  # steps that the time bar covers


def make_visible(text: str) -> str:
    """The text on one line: newlines as ↵, control and formatting characters as escapes."""
    return "".join(_make_visible(character) for character in text)


def _make_visible(character: str) -> str:
    if character == "\n":
        return "↵"
    if character == "\t":
        return " "
    if unicodedata.category(character) in _ESCAPED or ord(character) in _SELECTORS:
        return escape(character)
    return character


def head_and_tail(text: str, cells: int) -> str:
    """The text within this many cells; of a longer one, its beginning and its end."""
    if cell_len(text) <= cells:
        return text
    if cells < 12:
        return head(text, cells)
    first = (cells - 3) * 3 // 5
    return set_cell_size(text, first) + " … " + _last_cells(text, cells - 3 - first)


def head(text: str, cells: int) -> str:
    """The beginning of a text within this many cells."""
    if cell_len(text) <= cells:
        return text
    return set_cell_size(text, cells - 1) + "…" if cells > 0 else ""


def tail(text: str, cells: int) -> str:
    """The end of a text within this many cells."""
    return text if cell_len(text) <= cells else "…" + _last_cells(text, cells - 1)


def _last_cells(text: str, cells: int) -> str:
    return set_cell_size(text[::-1], max(0, cells))[::-1]


def format_number(value: float | None) -> str:
    """A metric in about five characters; a dash for None."""
    if value is None:
        return "–"
    if abs(value) >= 1e4:
        return f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.2e}"
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.3f}"


def format_duration(seconds: float) -> str:
    """Seconds as h:mm:ss, after the number of days if there are any."""
    minutes, second = divmod(round(max(0.0, seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}d {hour}:{minute:02}:{second:02}" if days else f"{hour}:{minute:02}:{second:02}"


def sparkline(values: Sequence[float | None], width: int, levels: str = BLOCKS) -> str:
    """The values as at most `width` blocks, scaled from the least to the greatest of them.

    Averages where there are more values than blocks; a gap is a space.
    """
    points = [_mean(part) for part in _split(values, width)]
    known = [point for point in points if point is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    scale = (len(levels) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if p is None else levels[round((p - low) * scale)] for p in points)


def measure_shares(metrics: Sequence[StepMetrics]) -> dict[str, float]:
    """Shares of the last steps' seconds by the letter of the phase; empty without records."""
    sums: dict[str, float] = {}
    for record in metrics[-RECENT:]:
        for name, value in record.get("seconds", {}).items():
            sums[name] = sums.get(name, 0.0) + (value or 0.0)
    total = sums.pop("step", 0.0)
    if total <= 0:
        return {}
    found = {letter: sums.get(key, 0.0) / total for letter, key, _, _ in PHASES}
    return {**found, OTHER[0]: max(0.0, 1 - sum(found.values()))}


def time_bar(shares: Mapping[str, float], width: int) -> Text:
    """The shares as letters on colours, readable without colour too."""
    styles = {letter: style for letter, _, _, style in PHASES} | {OTHER[0]: OTHER[2]}
    cells = _divide_cells(list(shares.values()), width)
    bar = Text()
    for letter, count in zip(shares, cells, strict=True):
        bar.append(letter * count, styles[letter])
    return bar


def time_legend(shares: Mapping[str, float]) -> str:
    """The meaning of the bar's letters, with their shares."""
    names = {letter: name for letter, _, name, _ in PHASES} | {OTHER[0]: OTHER[1]}
    return "  ".join(f"{letter} {names[letter]} {share:.0%}" for letter, share in shares.items())


def _divide_cells(shares: Sequence[float], width: int) -> list[int]:
    # Largest remainders: the cells add up to the width
    exact = [share * width for share in shares]
    cells = [math.floor(value) for value in exact]
    order = sorted(range(len(exact)), key=lambda i: cells[i] - exact[i])
    for i in order[: max(0, width - sum(cells))]:
        cells[i] += 1
    return cells


def _split(values: Sequence[float | None], width: int) -> list[Sequence[float | None]]:
    count = min(len(values), max(0, width))
    cuts = [i * len(values) // count for i in range(count + 1)] if count else []
    return [values[a:b] for a, b in pairwise(cuts)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
