"""Rows of a CSV file: its first line names the columns, every other record is a row.

    prompt,answer
    12+34=,46

UTF-8, with or without a byte order mark; fields in double quotes may hold delimiters, line ends and
doubled quotes. All columns are text. An empty cell of the answer column is no answer: CSV cannot
tell the two apart. Blank lines are passed over. The whole file is read at the start, so that a
broken record is reported before anything is computed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from drpo_cli.data.pipeline.fields import TableSettings, missing_column, to_problem
from drpo_cli.errors import UserError
from drpo_cli.settings import SpecPath
from drpo_cli.types import Problem


class Config(TableSettings):
    """Options of a CSV file."""

    path: SpecPath
    """The file; a relative path counts from the spec's folder."""
    delimiter: Annotated[str, Field(pattern=r'^[^"\r\n]$')] = ","
    """What stands between two fields: one character, such as `";"` or a tab, `"\\t"`."""

    @field_validator("path")
    @classmethod
    def _exists(cls, path: Path) -> Path:
        if not path.is_file():
            raise ValueError(f"there is no file {path}; name a CSV file")
        return path


def load(config: Config) -> Sequence[Problem]:
    """The problems of the file, in its order."""
    records = _records(config)
    line, header = next(records, (1, []))
    if not header:
        raise UserError(f"{config.path}: the file is empty; its first line names the columns")
    _check_header(header, config, f"{config.path}:{line}")
    problems = [_problem(header, cells, line, config) for line, cells in records]
    if not problems:
        raise UserError(f"{config.path}: the file has no rows, only a header; put rows below it")
    return problems


def _records(config: Config) -> Iterator[tuple[int, list[str]]]:
    """Every record that is not blank, with the line it starts on."""
    text = io.StringIO(_text(config.path), newline="")
    reader = csv.reader(text, delimiter=config.delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{config.path}:{line}: the record that starts here is not CSV: {error}; put fields "
            f'with a {config.delimiter!r}, a quote or a line end in "…", and double quotes in them'
        ) from error


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from error


def _check_header(header: list[str], config: Config, where: str) -> None:
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{where}: two columns are called {twice!r}; rename one")
    for role, name in (("prompt", config.fields.prompt), ("answer", config.fields.answer)):
        if name is not None and name not in header:
            missing = missing_column(name, role, header, where)
            raise UserError(f"{missing}, if this line is a header: the first line must be one")


def _problem(header: list[str], cells: list[str], line: int, config: Config) -> Problem:
    where = f"{config.path}:{line}"
    if len(cells) != len(header):
        raise UserError(
            f"{where}: {len(cells)} fields, but the header has {len(header)} "
            f"({', '.join(header)}); is the delimiter {config.delimiter!r}, and are fields that "
            "hold one in quotes?"
        )
    row: dict[str, str | None] = dict(zip(header, cells, strict=True))
    answer = config.fields.answer or "answer"
    if row.get(answer) == "":
        row[answer] = None
    return to_problem(row, config.fields, where)
