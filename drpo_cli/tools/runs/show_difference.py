"""A difference of two runs, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from drpo_cli.runs.summary import ABSENT, KeyDifference, RunDifference
from drpo_cli.tools.runs.table import score

_NARROW = 60
_UNBROKEN = 100_000


def as_json(found: RunDifference) -> str:
    """Everything, by name; a side without a key has null."""
    return json.dumps(
        {
            "a": str(found.a.path),
            "b": str(found.b.path),
            "spec": [asdict(each) for each in found.spec],
            "versions": [asdict(each) for each in found.versions],
            "held_out": {"a": asdict(found.held_out_a), "b": asdict(found.held_out_b)},
            "same_problems": found.same_problems,
            "notes": found.notes,
        },
        indent=1,
        default=str,
    )


def show(found: RunDifference, stream: TextIO) -> None:
    """A table each of specs and versions, the scores, and the paths that mean the same, dim."""
    console = Console(file=stream, markup=False, highlight=False)
    if not console.is_terminal:
        console.width = _UNBROKEN
    loud = [each for each in found.spec if not each.quiet]
    quiet = [each for each in found.spec if each.quiet]
    heads = (str(found.a.path), str(found.b.path))
    _section(console, "spec", loud, heads, "the specs say the same")
    _section(console, "versions and machine", found.versions, heads, "the same")
    scores = KeyDifference("held-out", score(found.held_out_a), score(found.held_out_b))
    _section(console, "scores", [scores], heads, "")
    if found.same_problems is False:
        console.print("not on the same problems, or sampled otherwise: these do not compare")
    if quiet:
        _section(console, "names and folders", quiet, heads, "", style="dim")
    for note in found.notes:
        console.print(Text(f"note: {note}", "yellow"))


def _section(
    console: Console,
    title: str,
    rows: Sequence[KeyDifference],
    heads: tuple[str, str],
    none: str,
    style: str = "",
) -> None:
    console.print(Text(title, "bold"))
    if not rows:
        console.print(f"  {none}")
        return
    narrow = console.width < _NARROW
    table = Table.grid(padding=(0, 0 if narrow else 2))
    for _ in range(1 if narrow else 3):
        table.add_column(overflow="fold")
    if narrow:
        for row in rows:
            table.add_row(Text(f"  {row.key}: {_said(row.a)} | {_said(row.b)}", style))
    else:
        table.add_row("", *(Text(head, "underline") for head in heads))
        for row in rows:
            table.add_row(
                *(Text(text, style) for text in (f"  {row.key}", _said(row.a), _said(row.b)))
            )
    _print(console, table)


def _print(console: Console, table: Table) -> None:
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as caught:  # without the spaces that fill the last column
        console.print(table)
    console.file.writelines(f"{line.rstrip()}\n" for line in caught.get().splitlines())


def _said(value: Any) -> str:
    if value is None:
        return ABSENT
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
