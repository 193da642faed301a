"""Text for a terminal: numbers, times, and untrusted text made harmless."""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len, set_cell_size

_ESCAPED = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}  # moves a cursor, or has no known width
_SELECTORS = range(0xFE00, 0xFE10)  # they change the width of the character in front


def visible(text: str) -> str:
    """The text on one line: newlines as ↵, control and formatting characters as escapes."""
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if character == "\n":
        return "↵"
    if character == "\t":
        return " "
    if unicodedata.category(character) in _ESCAPED or ord(character) in _SELECTORS:
        return character.encode("unicode_escape", "surrogatepass").decode()
    return character


def head_and_tail(text: str, cells: int) -> str:
    """The text within so many cells: where it is longer, its beginning and its end."""
    if cell_len(text) <= cells:
        return text
    if cells < 12:
        return head(text, cells)
    first = (cells - 3) * 3 // 5
    return set_cell_size(text, first) + " … " + _end(text, cells - 3 - first)


def head(text: str, cells: int) -> str:
    """The beginning of a text within so many cells."""
    if cell_len(text) <= cells:
        return text
    return set_cell_size(text, cells - 1) + "…" if cells > 0 else ""


def tail(text: str, cells: int) -> str:
    """The end of a text within so many cells."""
    return text if cell_len(text) <= cells else "…" + _end(text, cells - 1)


def _end(text: str, cells: int) -> str:
    return set_cell_size(text[::-1], max(0, cells))[::-1]


def number(value: float | None) -> str:
    """A metric in five or so characters; a step that trained on no token lacks some."""
    if value is None:
        return "–"
    if abs(value) >= 1e4:
        return f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.2e}"
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss, days in front of that where there are any."""
    minutes, second = divmod(round(max(0.0, seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}d {hour}:{minute:02}:{second:02}" if days else f"{hour}:{minute:02}:{second:02}"
