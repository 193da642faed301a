"""Rows of a JSON Lines file: one JSON object per line.

    {"prompt": "12+34=", "answer": "46"}

Blank lines are ignored. Every line is read at the start, so that a broken one is reported before
anything is computed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from drpo_cli.data.pipeline.columns import FileSettings, to_problem
from drpo_cli.errors import UserError
from drpo_cli.types import Problem


class Config(FileSettings):
    """Options of a JSON Lines file."""


def load(config: Config) -> Sequence[Problem]:
    """Reads the problems of the file, in its order."""
    problems = []
    with config.path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{config.path}:{number}"
                problems.append(to_problem(_parse(line, where), config.fields, where))
    if not problems:
        raise UserError(f"{config.path}: the file has no rows", "put one JSON object on each line")
    return problems


def _parse(line: bytes, where: str) -> dict[str, Any]:
    fix = "put one JSON object on each line"
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except ValueError as error:  # covers bad UTF-8 too
        raise UserError(f"{where}: not JSON: {error}", fix) from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: a {type(row).__name__}, not an object", fix)
    return row
