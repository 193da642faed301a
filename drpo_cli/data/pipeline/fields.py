"""From a row of named columns to a problem."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from drpo_cli.errors import UserError
from drpo_cli.settings import Settings, SourceSettings
from drpo_cli.types import Message, Problem


class Fields(Settings):
    """Which column holds what.

    Dots reach into nested columns: `answer = "reward_model.ground_truth"`.
    """

    prompt: str = "prompt"
    """Column of the prompt: a string, or a list of chat messages."""
    answer: str | None = None
    """Column of the reference answer; the column `answer` when not set, if there is one."""


class TableSettings(SourceSettings):
    """Options every source of named columns takes."""

    fields: Fields = Fields()
    """Which column holds the prompt and which the answer; other columns become metadata."""


def to_problem(row: Mapping[str, Any], fields: Fields, where: str) -> Problem:
    """The problem of one row. Raises UserError, naming `where`, for columns that do not fit."""
    named = fields.answer or ("answer" if "answer" in row else None)
    return Problem(
        prompt=_prompt(_column(row, fields.prompt, "prompt", where), where),
        answer=_answer(_column(row, named, "answer", where), where) if named else None,
        metadata={k: recordable(v) for k, v in row.items() if k not in (fields.prompt, named)},
    )


def missing_column(
    name: str, role: str, columns: Iterable[str], where: str, inside: str = ""
) -> str:
    """The message for a column that is not there; `inside` is the column it was looked for in."""
    have = ", ".join(columns) or "none"
    return (
        f"{where}: there is no column {name!r} for the {role}; "
        f"the columns{f' of {inside!r}' if inside else ''} are {have}; "
        f'name one with fields = {{ {role} = "…" }}'
    )


def recordable(value: Any) -> Any:
    """`value` with all that JSON has no form for (dates, fractions, bytes) as text.

    Metadata is written to samples.jsonl. Tuples stay: some graders compare with them.
    """
    if isinstance(value, Mapping):
        return {key: recordable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [recordable(inner) for inner in value]
    if isinstance(value, tuple):
        return tuple(recordable(inner) for inner in value)
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _column(row: Mapping[str, Any], name: str, role: str, where: str) -> Any:
    value: Any = row
    parts = [name] if name in row else name.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(value, Mapping) or part not in value:
            columns = value if isinstance(value, Mapping) else ()
            inside = ".".join(parts[:depth])
            raise UserError(missing_column(name, role, columns, where, inside))
        value = value[part]
    return value


def _answer(value: object, where: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return str(value)
    raise UserError(f"{where}: the answer is a {type(value).__name__}; make it a string or number")


def _prompt(value: object, where: str) -> str | tuple[Message, ...]:
    if value == "":
        raise UserError(f"{where}: the prompt is empty; give the row one, or take the row out")
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(_is_message(turn) for turn in value):
        return tuple({k: v for k, v in turn.items() if v is not None} for turn in value)
    raise UserError(
        f"{where}: the prompt is neither a string nor a list of chat messages "
        f'({{"role": "user", "content": "…"}}) but {str(value)[:80]}'
    )


def _is_message(turn: object) -> bool:
    return isinstance(turn, dict) and all(
        isinstance(turn.get(key), str) for key in ("role", "content")
    )
