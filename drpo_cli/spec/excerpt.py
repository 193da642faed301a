"""Shows problems in the terminal: each with its line, and what is wrong underlined."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from drpo_cli.spec.problems import Diagnostic, SpecError

if TYPE_CHECKING:
    from rich.console import Console

TAB = "    "
NARROWEST = 8
"""Columns of the source that even the narrowest terminal shows."""
_COLOURS = {"error": "red", "warning": "yellow"}


def show(console: Console, error: SpecError, name: str | None = None) -> None:
    """Shows every problem and warning of a SpecError, and their number."""
    show_all(console, [*error.problems, *error.warnings])
    name = name or next((one.file for one in error.problems if one.file), "the command")
    console.print(Text(count(error.problems, error.warnings, name), "bold"), soft_wrap=True)
    if error.note:
        _print(console, Text(error.note))


def show_all(console: Console, diagnostics: Sequence[Diagnostic]) -> None:
    """Shows each problem with its excerpt, in file order; those of the command line last."""
    for one in sorted(diagnostics, key=_order):
        warning = Text("warning: ", "bold yellow") if one.severity == "warning" else Text()
        what = _visible(str(one).removeprefix(one.where))
        _print(console, warning + Text(_visible(one.where), "bold") + what)
        if one.source is not None and one.column is not None:
            _print_excerpt(console, one)


def _order(one: Diagnostic) -> tuple[bool, int, int]:
    return (one.on_command_line, one.line or 0, 0 if one.on_command_line else one.column or 0)


def count(errors: Sequence[Diagnostic], warnings: Sequence[Diagnostic], name: str) -> str:
    """`3 errors, 1 warning in run.toml`."""
    counts = {"error": len(errors), "warning": len(warnings)}
    parts = [f"{n} {what}{'s' * (n != 1)}" for what, n in counts.items() if n]
    return f"{', '.join(parts) or 'no errors'} in {name}"


def _print(console: Console, text: Text) -> None:
    # One line per problem where the output is not a terminal, so that tools can read lines.
    if console.is_terminal:
        console.print(text, overflow="fold")
    else:
        console.print(text, soft_wrap=True)


def _print_excerpt(console: Console, one: Diagnostic) -> None:
    number = "" if one.line is None else str(one.line)
    gutter = f"{number:>4} │ " if console.width >= 40 else f"{number}│"
    blank = f"{'':>{gutter.index('│')}}{gutter[gutter.index('│') :]}"
    room = max(console.width - cell_len(gutter), NARROWEST)
    source, before, marked = excerpt(one, room)
    colour = _COLOURS[one.severity]
    line = Text.assemble((gutter, "dim"), source)
    carets = Text.assemble((blank, "dim"), " " * before, ("^" * marked, f"bold {colour}"))
    for text in (line, carets):
        console.print(text, soft_wrap=True)


def excerpt(one: Diagnostic, room: int) -> tuple[str, int, int]:
    """The source in at most `room` columns; the columns before what is wrong, and its own."""
    source, column = one.source or "", one.column or 1
    start = min(column - 1, len(source))
    continues = one.end_line is not None and one.end_line != one.line
    end = len(source) if continues else max(start, (one.end_column or column + 1) - 1)
    before, marked, after = map(_visible, (source[:start], source[start:end], source[end:]))
    if cell_len(before + marked + after) > room:
        wanted = min(cell_len(marked), room // 2)
        before = _tail(before, max(room - wanted - 4, room // 3))
        left = room - cell_len(before)
        if cell_len(marked + after) > left:
            marked, after = _head(marked, left - 1), _head(after, left - 1 - cell_len(marked)) + "…"
    return before + marked + after, cell_len(before), max(1, cell_len(marked))


def _visible(text: str) -> str:
    """`text` without characters that would move the cursor, except ends of lines."""
    hidden = ("Cc", "Cf", "Zl", "Zp")
    plain = ("�" if unicodedata.category(c) in hidden and c not in "\t\n" else c for c in text)
    return "".join(plain).replace("\t", TAB)


def _head(text: str, cells: int) -> str:
    used = 0
    for at, character in enumerate(text):
        used += cell_len(character)
        if used > cells:
            return text[:at]
    return text


def _tail(text: str, cells: int) -> str:
    if cell_len(text) <= cells:
        return text
    return "…" + _head(text[::-1], cells - 1)[::-1]
