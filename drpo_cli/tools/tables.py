"""The console and the tables that the verbs print: one look for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from drpo_cli.console import open_console


def make_console(stream: TextIO | None = None, width: int | None = None) -> Console:
    """A console that prints text as it is: no markup, and no colours for numbers."""
    return open_console(stream, width)


def make_table(*columns: Column | str, leading: int = 0) -> Table:
    """A table with a line below its headings."""
    return Table(*columns, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, leading=leading)


def make_grid(*columns: Column | str, gap: int = 2) -> Table:
    """Aligned columns without headings or lines."""
    return Table.grid(*columns, padding=(0, gap))


def numbers(headings: Sequence[str]) -> list[Column]:
    """Columns of numbers: on the right, never wrapped."""
    return [Column(heading, justify="right", no_wrap=True) for heading in headings]
