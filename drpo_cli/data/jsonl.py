"""Rows of a JSON Lines file: one JSON object per line.

    {"prompt": "12+34=", "answer": "46"}

Blank lines are ignored. Every line is read at the start, so that a broken one is reported before
anything is computed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from drpo_cli.data.pipeline.columns import FileSettings, decode, is_in_time, to_problem
from drpo_cli.data.pipeline.values import MOST_DIGITS, UnfitError, too_long
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
                row, where = _parse(line, number, config), f"{config.path}:{number}"
                if is_in_time(row, config, where):
                    problems.append(to_problem(row, config, where))
    if not problems and config.fields.date is None:
        raise UserError(f"{config.path}: the file has no rows", "put one JSON object on each line")
    return problems


def _parse(line: bytes, number: int, config: Config) -> dict[str, Any]:
    where, fix = f"{config.path}:{number}", "put one JSON object on each line"
    text = decode(line, config, number)
    try:
        row = json.loads(text, object_pairs_hook=_make_object, parse_int=_parse_int)
    except (ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else f"not JSON: {error}"
        raise UserError(f"{where}: {what}", fix) from error
    except UnfitError as error:
        raise UserError(f"{where}: the line {error.what}", error.fix) from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: a {type(row).__name__}, not an object", fix)
    return row


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = Counter(name for name, _ in pairs)
        raise UnfitError(f"has the key {names.most_common(1)[0][0]!r} twice", "rename one")
    return made


def _parse_int(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise too_long()
    return int(digits)
