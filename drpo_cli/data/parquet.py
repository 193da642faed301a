"""Rows of parquet files: one file, all of a folder, or those that a pattern matches.

Files follow each other in the order of their paths. The `datasets` library copies their rows once
into its cache, from where they are memory-mapped and read on demand.
"""

from __future__ import annotations

import glob
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from pydantic import field_validator

from drpo_cli.data.pipeline.columns import (
    TableSettings,
    missing_column,
    read_row,
    rows_in_time,
    to_problem,
)
from drpo_cli.data.pipeline.plain import plain_path
from drpo_cli.data.pipeline.rows import Lazy
from drpo_cli.errors import UserError
from drpo_cli.settings import SpecPath
from drpo_cli.types import Problem


class Config(TableSettings):
    """Options of parquet files."""

    path: SpecPath
    """A file, a folder, or a pattern such as `data/train-*.parquet`; a relative path counts from
    the spec's folder."""

    @field_validator("path")
    @classmethod
    def _check_exists(cls, path: Path) -> Path:
        if not _find_files(path):
            raise ValueError(f"there is no parquet file {path}; name a file, a folder or a pattern")
        return path


def load(config: Config) -> Sequence[Problem]:
    """Opens the rows of all files. Raises UserError, naming the file, for one that does not fit."""
    try:
        import datasets
    except ImportError as error:
        fix = "install it with: pip install datasets"
        raise UserError(f"data 'parquet': {error}", fix) from error
    files = _find_files(config.path)
    ends = list(accumulate(_count_rows(file, files[0], config) for file in files))
    try:
        rows = datasets.load_dataset(
            "parquet",
            data_files=[glob.escape(str(plain_path(file))) for file in files],
            split="train",
        )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"{_find_broken(files) or config.path}: cannot be read: {error.__cause__ or error}"
        ) from error

    chosen = rows_in_time(rows, config, str(config.path))

    def make(number: int) -> Problem:
        index = chosen[number]
        at = bisect_right(ends, index)
        row = index - (ends[at - 1] if at else 0)
        where = f"{files[at]}, row {row}"
        return to_problem(read_row(rows, index, where), config, where)

    if len(chosen) > 0:
        make(0)  # reports a missing nested column before a run starts
    return Lazy(len(chosen), make)


def _find_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted(path.rglob("*.parquet"))
    # what exists is meant literally; the pattern begins with the first part that does not
    base = next(parent for parent in path.absolute().parents if parent.exists())
    pattern = str(path.absolute().relative_to(base))
    return [base / name for name in sorted(glob.glob(pattern, root_dir=base, recursive=True))]


def _count_rows(file: Path, first: Path, config: Config) -> int:
    """The number of rows of a file. Raises UserError for columns that do not fit."""
    import pyarrow
    from pyarrow import parquet

    try:
        footer = parquet.read_metadata(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{file}: not a whole parquet file: {error}", "write it again") from error
    columns = footer.schema.to_arrow_schema().names
    for role, name in (("prompt", config.fields.prompt), ("answer", config.fields.answer)):
        if name is not None and not {name, name.partition(".")[0]} & set(columns):
            raise missing_column(name, role, columns, str(file))
    expected = parquet.read_schema(first).names
    if sorted(columns) != sorted(expected):
        raise UserError(
            f"{file}: the columns are {', '.join(columns)}, but those of {first} are "
            f"{', '.join(expected)}",
            "files of one source have the same columns: make it two sources",
        )
    rows: int = footer.num_rows
    return rows


def _find_broken(files: list[Path]) -> Path | None:
    """The first file that cannot be read to its end, or has other column types than the first."""
    import pyarrow
    from pyarrow import parquet

    expected = parquet.read_schema(files[0])
    for file in files:
        try:
            for _ in parquet.ParquetFile(file).iter_batches():
                pass
        except (OSError, pyarrow.ArrowException):
            return file
        if not parquet.read_schema(file).equals(expected):
            return file
    return None
