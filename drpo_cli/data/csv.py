"""Rows of a CSV file: the first line names the columns, every other record is a row.

    prompt,answer
    12+34=,46

UTF-8, with or without a byte order mark. Fields in double quotes may hold delimiters, line ends and
doubled quotes. All columns are text. An empty cell of the answer column means that there is no
answer: CSV cannot distinguish the two. Blank lines are ignored. The whole file is read at the
start, so that a broken record is reported before anything is computed.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field

from drpo_cli.data.pipeline.columns import (
    FileSettings,
    decode,
    is_in_time,
    missing_column,
    to_problem,
)
from drpo_cli.errors import UserError
from drpo_cli.types import Problem


class Config(FileSettings):
    """Options of a CSV file."""

    delimiter: Annotated[str, Field(pattern=r'^[^"\r\n]$')] = ","
    """The character between two fields, such as `";"` or a tab, `"\\t"`."""


def load(config: Config) -> Sequence[Problem]:
    """Reads the problems of the file, in its order."""
    records = _read_records(config)
    line, header = next(records, (1, []))
    if not header:
        raise UserError(f"{config.path}: the file is empty", "its first line names the columns")
    _check_header(header, config, f"{config.path}:{line}")
    problems = [
        to_problem(row, config, where)
        for row, where in (_make_row(header, cells, line, config) for line, cells in records)
        if is_in_time(row, config, where)
    ]
    if not problems and config.fields.date is None:
        raise UserError(f"{config.path}: the file has no rows, only a header", "put rows below it")
    return problems


def _read_records(config: Config) -> Iterator[tuple[int, list[str]]]:
    """Every record that is not blank, with the line it starts on."""
    text = io.StringIO(decode(config.path.read_bytes(), config), newline="")
    csv.field_size_limit(sys.maxsize)  # Python's own is 131,072 characters
    reader = csv.reader(text, delimiter=config.delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{config.path}:{line}: the record that starts here is not CSV: {error}",
            f'put fields with a {config.delimiter!r}, a quote or a line end in "…", and write a '
            "quote in them twice",
        ) from error


def _check_header(header: list[str], config: Config, where: str) -> None:
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{where}: two columns are called {twice!r}", "rename one")
    for role, name in (("prompt", config.fields.prompt), ("answer", config.fields.answer)):
        if name is not None and name not in header:
            error = missing_column(name, role, header, where)
            raise UserError(
                error.what, f"{error.fix}; if this line is a row, put a header above it"
            )


def _make_row(
    header: list[str], cells: list[str], line: int, config: Config
) -> tuple[dict[str, str | None], str]:
    """A row, and where it stands."""
    where = f"{config.path}:{line}"
    if len(cells) != len(header):
        raise UserError(
            f"{where}: {len(cells)} fields, but the header has {len(header)} ({', '.join(header)})",
            f"check that the delimiter is {config.delimiter!r} and that fields with a delimiter "
            "are in quotes",
        )
    row: dict[str, str | None] = dict(zip(header, cells, strict=True))
    answer = config.fields.answer or "answer"
    if row.get(answer) == "":
        row[answer] = None
    return row, where
