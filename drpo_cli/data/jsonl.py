"""Rows of a JSON Lines file: one JSON object a line.

    {"prompt": "12+34=", "answer": "46"}

Blank lines are passed over. Every line is read at the start, so that a broken one is reported
before anything is computed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import field_validator

from drpo_cli.data.pipeline.fields import TableSettings, to_problem
from drpo_cli.errors import UserError
from drpo_cli.settings import SpecPath
from drpo_cli.types import Problem


class Config(TableSettings):
    """Options of a JSON Lines file."""

    path: SpecPath
    """The file; a relative path counts from the spec's folder."""

    @field_validator("path")
    @classmethod
    def _exists(cls, path: Path) -> Path:
        if not path.is_file():
            raise ValueError(f"there is no file {path}; name a JSON Lines file")
        return path


def load(config: Config) -> Sequence[Problem]:
    """The problems of the file, in its order."""
    problems = []
    with config.path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{config.path}:{number}"
                problems.append(to_problem(_parse(line, where), config.fields, where))
    if not problems:
        raise UserError(f"{config.path}: the file has no rows; put one JSON object on each line")
    return problems


def _parse(line: bytes, where: str) -> dict:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except ValueError as error:  # covers bad UTF-8 too
        raise UserError(f"{where}: not JSON: {error}; each line is one JSON object") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: a {type(row).__name__}; each line is one JSON object")
    return row
