"""Sources with named columns: which column is the prompt, which the answer, and a row's problem."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import field_validator

from drpo_cli.errors import UserError
from drpo_cli.settings import Settings, SourceSettings, SpecPath
from drpo_cli.types import Message, Problem


class Fields(Settings):
    """Which column holds what.

    Dots reach into nested columns: `answer = "reward_model.ground_truth"`.
    """

    prompt: str = "prompt"
    """Column of the prompt: a string, or a list of chat messages."""
    answer: str | None = None
    """Column of the reference answer; when not set, the column `answer` if the row has one."""


class TableSettings(SourceSettings):
    """Options of every source with named columns."""

    fields: Fields = Fields()
    """Which column holds the prompt and which the answer; other columns become metadata."""


class FileSettings(TableSettings):
    """Options of every source that reads one file."""

    path: SpecPath
    """The file; a relative path counts from the spec's folder."""

    @field_validator("path")
    @classmethod
    def _check_exists(cls, path: Path) -> Path:
        if not path.is_file():
            raise ValueError(f"there is no file {path}; name the file with the rows")
        return path


def to_problem(row: Mapping[str, Any], fields: Fields, where: str) -> Problem:
    """Makes the problem of one row. Raises UserError, naming `where`, for columns that do not fit.

    Columns other than prompt and answer become metadata.
    """
    answer = fields.answer or ("answer" if "answer" in row else None)
    return Problem(
        prompt=_read_prompt(_find(row, fields.prompt, "prompt", where), where),
        answer=_read_answer(_find(row, answer, "answer", where), where) if answer else None,
        metadata={k: v for k, v in row.items() if k not in (fields.prompt, answer)},
    )


def missing_column(
    name: str, role: str, columns: Iterable[str], where: str, inside: str = ""
) -> UserError:
    """The error for a column that does not exist; `inside` is the column that was searched."""
    of = f" of {inside!r}" if inside else ""
    return UserError(
        f"{where}: there is no column {name!r} for the {role}; "
        f"the columns{of} are {', '.join(columns) or 'none'}",
        f'name one with fields = {{ {role} = "…" }}',
    )


def _find(row: Mapping[str, Any], name: str, role: str, where: str) -> Any:
    value: Any = row
    parts = [name] if name in row else name.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(value, Mapping) or part not in value:
            columns = value if isinstance(value, Mapping) else ()
            raise missing_column(name, role, columns, where, inside=".".join(parts[:depth]))
        value = value[part]
    return value


def _read_answer(value: object, where: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return str(value)
    raise UserError(
        f"{where}: the answer is a {type(value).__name__}", "make it a string or number"
    )


def _read_prompt(value: object, where: str) -> str | tuple[Message, ...]:
    if value == "":
        raise UserError(f"{where}: the prompt is empty", "write one, or remove the row")
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
