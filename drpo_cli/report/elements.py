"""Pieces of a page. Texts are escaped here: what a model said may well be HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

HEAD, TAIL = 400, 400  # characters of a long text that are shown; an answer is often at its end


# What would be invisible, or turn the text around it, is shown: ␛ for an escape, [U+202E]
CONTROLS = {c: chr(0x2400 + c) for c in range(0x20) if c not in b"\t\n\r"} | {0x7F: "␡"}
CONTROLS |= {c: f"[U+{c:04X}]" for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def escaped(value: object) -> str:
    """As text inside an element or attribute, with control characters made visible."""
    return html.escape(str(value).translate(CONTROLS))


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; `kind` is a class of the page's style."""
    return f'<p class="{escaped(kind)}">{escaped(text)}</p>' if kind else f"<p>{escaped(text)}</p>"


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], kinds: Mapping[str, str] | None = None
) -> str:
    """Rows of cells in the columns' order; `kinds` are classes of the page's style by column.

    `n` numbers, set to the right; `k` names and other short text; `t` long text.
    """
    classes = [f' class="{(kinds or {}).get(name, "")}"' for name in columns]
    head = "".join(
        f"<th scope=col{c}>{escaped(name)}</th>" for c, name in zip(classes, columns, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{c}>{escaped(cell)}</td>" for c, cell in zip(classes, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def shortened(text: str) -> str:
    """A text's beginning and end, and how much was left out between them."""
    left_out = len(text) - HEAD - TAIL
    if left_out <= 0:
        return text
    return f"{text[:HEAD]} […  {left_out:,} characters left out  …] {text[-TAIL:]}"


def number(value: float | None) -> str:
    """Four digits, or a dash where there is none."""
    return "–" if value is None else f"{value:,.4g}".replace("-", "−")


def tally(counts: Mapping[str, float]) -> str:
    """`12 timeout, 1 crash`: what was counted, most first."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{_amount(count)} {name}" for name, count in ranked)


def _amount(count: float) -> str:
    return f"{int(count):,}" if float(count).is_integer() else f"{count:,.4g}"
