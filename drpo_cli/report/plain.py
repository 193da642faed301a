"""Numbers and long texts in few characters, for the page and the view."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

HEAD, TAIL = 400, 400  # characters shown of a long text; an answer is often at its end


def shorten(text: str) -> str:
    """A text's beginning and end, and how many characters between them are left out."""
    left_out = len(text) - HEAD - TAIL
    if left_out <= 0:
        return text
    return f"{text[:HEAD]} […  {left_out:,} characters left out  …] {text[-TAIL:]}"


def format_number(value: float | None) -> str:
    """Four digits, all digits of an integer, or a dash for None."""
    if value is None:
        return "–"
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    return text.replace("-", "−")


def format_counts(counts: Mapping[str, float]) -> str:
    """`12 timeout, 1 crash`: names with their counts, the largest first."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(
        f"{format_number(int(count) if float(count).is_integer() else count)} {name}"
        for name, count in ranked
    )


def join_lines(parts: Iterable[str]) -> str:
    """The parts that are not empty, one per line."""
    return "\n".join(part for part in parts if part)
