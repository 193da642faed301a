"""Sources with named columns: which column is the prompt, which the answer, and a row's problem."""

from __future__ import annotations

import datetime
import json
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator, model_validator

from drpo_cli.data.pipeline.problems import clean
from drpo_cli.errors import UserError
from drpo_cli.settings import Settings, SourceSettings, SpecPath
from drpo_cli.types import Problem


def _check_day(text: str) -> str:
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise ValueError(f'{text!r} is not a day such as "2025-02-01"') from error


Day = Annotated[str, AfterValidator(_check_day)]


class Fields(Settings):
    """Which column holds what.

    Dots reach into nested columns: `answer = "reward_model.ground_truth"`.
    """

    prompt: str = "prompt"
    """Column of the prompt: a string, or a list of chat messages."""
    answer: str | None = None
    """Column of the reference answer; when not set, the column `answer` if the row has one."""
    answer_regex: str | None = None
    """Regular expression that finds the answer in that column: its last match, or the first group
    of that if it has groups. `"####\\s*(.+)"` finds what follows the last `####`."""

    date: str | None = None
    """Column of the day of a row, for `since` and `before`: a date, or a text that begins as
    `2025-02-01`."""
    wrong: tuple[str, ...] = Field(default=(), strict=False)
    """Columns of wrong answers, which make a row a question with choices. The template then has
    `choices`, all answers in an order that depends on their text alone, and the answer is the
    letter of the right one."""

    @field_validator("answer_regex")
    @classmethod
    def _check_regex(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        return pattern


class TableSettings(SourceSettings):
    """Options of every source with named columns."""

    fields: Fields = Fields()
    """Which column holds the prompt and which the answer; other columns become metadata."""
    since: Day | None = None
    """Only rows of this day or later, by `fields.date`, as `"2025-02-01"`."""
    before: Day | None = None
    """Only rows of earlier days, by `fields.date`."""

    @model_validator(mode="after")
    def _check_days(self) -> TableSettings:
        chosen = self.since or self.before
        if chosen and self.fields.date is None:
            raise ValueError("since and before need fields.date, the column with the day of a row")
        if not chosen and self.fields.date is not None:
            raise ValueError("fields.date has no effect without since or before; remove it")
        return self


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


def decode(content: bytes, config: FileSettings, line: int = 1) -> str:
    """The text of a file, or of its part from `line` on, without a byte order mark.

    Raises UserError, naming file and line, for bytes that are not UTF-8, unless they are replaced.
    """
    encoding = json.detect_encoding(content[:4])
    if line == 1 and "8" not in encoding:
        raise UserError(f"{config.path}: the text is {encoding.upper()}", "save the file as UTF-8")
    errors = "replace" if config.invalid_unicode == "replace" else "strict"
    try:
        return content.decode(errors=errors).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        raise UserError(
            f"{config.path}:{line}: not UTF-8 text: byte 0x{content[error.start]:02x}",
            'save the file as UTF-8, or set invalid_unicode = "replace" in this source',
        ) from error


def read_row(rows: Any, index: int, where: str) -> Mapping[str, Any]:
    """A row of a data set of `datasets`. Raises UserError, naming `where`, for one that is broken.

    Numbers of 32 bits or fewer are read as they were written: 0.1, not 0.10000000149011612.
    """
    import pyarrow

    try:
        row: dict[str, Any] = rows[index]
    except (UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise UserError(f"{where}: cannot be read: {error}", "write the file again") from error
    features = getattr(rows, "features", None) or {}
    return {name: _narrow(value, features.get(name)) for name, value in row.items()}


def is_in_time(row: Mapping[str, Any], config: TableSettings, where: str) -> bool:
    """Whether a row is of the days of `since` and `before`. Raises UserError without a day."""
    if config.fields.date is None:
        return True
    value = _find(row, config.fields.date, "date", where)
    try:
        day = _check_day(str(value)[: len("2025-02-01")])  # of dates and times too
    except ValueError as error:
        raise UserError(
            f"{where}: fields.date: {value!r} does not begin with a day such as 2025-02-01",
            "name another column, or write its days so",
        ) from error
    return (config.since or day) <= day < (config.before or "9999-12-31")


def rows_in_time(rows: Any, config: TableSettings, where: str) -> Sequence[int]:
    """The numbers of the rows that `is_in_time`, of a data set of `datasets` or a list."""
    if config.fields.date is None:
        return range(len(rows))
    column = config.fields.date.partition(".")[0]
    if column in getattr(rows, "column_names", ()):
        rows = rows.select_columns([column])
    return [
        index
        for index in range(len(rows))
        if is_in_time(
            read_row(rows, index, f"{where}, row {index}"), config, f"{where}, row {index}"
        )
    ]


def to_problem(row: Mapping[str, Any], config: TableSettings, where: str) -> Problem:
    """Makes the problem of one row. Raises UserError, naming `where`, for columns that do not fit.

    Columns other than prompt and answer become metadata.
    """
    fields = config.fields
    answer = fields.answer or ("answer" if "answer" in row else None)
    reference = _find(row, answer, "answer", where) if answer else None
    if fields.answer_regex is not None:
        reference = _extract(fields.answer_regex, reference, where)
    prompt = _find(row, fields.prompt, "prompt", where)
    metadata = {k: v for k, v in row.items() if k not in (fields.prompt, answer)}
    if fields.wrong:
        wrong = [_find(row, name, "wrong", where) for name in fields.wrong]
        choices, reference = _arrange(prompt, reference, wrong, where)
        metadata["choices"] = choices
    return clean(Problem(prompt=prompt, answer=reference, metadata=metadata), config, where)


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


def _arrange(prompt: Any, right: Any, wrong: list[Any], where: str) -> tuple[list[str], str]:
    """The choices in an order by their hashes, and the letter of the right one."""
    choices = [str(choice) for choice in (right, *wrong)]
    if right is None or len(set(choices)) < len(choices):
        raise UserError(
            f"{where}: fields.wrong needs a right answer and others that differ from it",
            "name the column of the right answer, and remove rows with equal choices",
        )
    ordered = sorted(choices, key=lambda text: sha256(f"{prompt}\0{text}".encode()).digest())
    return ordered, string.ascii_uppercase[ordered.index(choices[0])]


def _extract(pattern: str, text: Any, where: str) -> str:
    """What the pattern finds in the text of an answer."""
    found = list(re.finditer(pattern, text)) if isinstance(text, str) else []
    if not found:
        raise UserError(
            f"{where}: fields.answer_regex finds nothing in the answer {text!r}",
            "change the expression, or remove such rows",
        )
    return found[-1].group(1 if found[-1].re.groups else 0).strip()


def _narrow(value: Any, feature: Any) -> Any:
    if isinstance(value, float) and getattr(feature, "dtype", "") in ("float16", "float32"):
        import numpy

        return float(str(getattr(numpy, feature.dtype)(value)))
    if isinstance(value, dict) and isinstance(feature, dict):
        return {name: _narrow(inner, feature.get(name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [_narrow(inner, getattr(feature, "feature", None)) for inner in value]
    return value


def _find(row: Mapping[str, Any], name: str, role: str, where: str) -> Any:
    value: Any = row
    parts = [name] if name in row else name.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(value, Mapping) or part not in value:
            columns = value if isinstance(value, Mapping) else ()
            raise missing_column(name, role, columns, where, inside=".".join(parts[:depth]))
        value = value[part]
    return value
