"""A data set of the Hugging Face hub, or a local folder or file, read by the `datasets` library.

Hub data sets are downloaded once and cached; local parquet, JSON, CSV and Arrow files need no
network. Rows stay on disk, memory-mapped, and are read on demand. With `streaming`, only the first
`rows` rows are downloaded, and they are held in memory.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import Field, ValidationInfo, field_validator, model_validator

from drpo_cli.data.pipeline.columns import TableSettings, read_row, rows_in_time, to_problem
from drpo_cli.data.pipeline.plain import plain_path
from drpo_cli.data.pipeline.rows import Lazy
from drpo_cli.errors import UserError
from drpo_cli.settings import Count
from drpo_cli.types import Problem

FORMATS = {
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".arrow": "arrow",
}


class Config(TableSettings):
    """Options of a data set."""

    path: Annotated[str, Field(min_length=1)]
    """Hub id, or a local folder or file (relative paths count from the spec's folder)."""
    name: str | None = None
    """Configuration of the data set, if it has several."""
    split: Annotated[str, Field(min_length=1)] = "train"
    """Split or slice of one: `train[:1000]`. A single file has only the split `train`."""
    revision: str | None = None
    """Commit, tag or branch of a data set of the hub; the newest commit if not set."""
    file: Annotated[str, Field(min_length=1)] | None = None
    """One file of a data set of the hub, as `data/part1.jsonl`, read by its ending, and never by a
    loading script of the data set. Its split is `train`."""
    streaming: bool = False
    """Read the first `rows` rows over the network at every start, instead of downloading all."""
    rows: Count | None = None
    """How many rows `streaming` reads; a shorter split gives all of its rows."""

    @field_validator("path")
    @classmethod
    def _resolve_path(cls, path: str, info: ValidationInfo) -> str:
        folder = (info.context or {}).get("folder") or Path()
        local = folder / os.path.expanduser(path)
        if local.exists():
            return str(local)
        if path[0] in "./~" or local.suffix in FORMATS:
            raise ValueError(f"there is no file or folder {local}")
        return path

    @model_validator(mode="after")
    def _check_revision(self) -> Config:
        if self.revision is not None and Path(self.path).exists():
            raise ValueError(
                f"revision has no effect on the local data {self.path}; remove it, or name a data "
                "set of the hub"
            )
        return self

    @model_validator(mode="after")
    def _check_file(self) -> Config:
        if self.file is None:
            return self
        if Path(self.path).exists():
            raise ValueError(f"file has no effect on the local data {self.path}; name it in path")
        if self.name is not None:
            raise ValueError("name has no effect on a file; remove it")
        if Path(self.file).suffix not in FORMATS:
            raise ValueError(f"file: its format cannot be read; use {', '.join(FORMATS)}")
        return self

    @model_validator(mode="after")
    def _check_streaming(self) -> Config:
        if self.streaming and self.rows is None:
            raise ValueError("streaming reads the first rows of the split; set rows to how many")
        if self.streaming and set(self.split) & set("[+"):
            raise ValueError(
                f"streaming reads one split from its first row on, not {self.split!r}; name one "
                "split, and set rows to the number of rows"
            )
        if self.rows is not None and not self.streaming:
            raise ValueError(
                f"rows goes with streaming = true; without it, write "
                f'split = "{self.split.partition("[")[0]}[:{self.rows}]"'
            )
        return self


def load(config: Config) -> Sequence[Problem]:
    """Opens the rows of the split. Raises UserError when they cannot be read or lack a column."""
    rows = _read(config)
    chosen = rows_in_time(rows, config, f"data set {config.path}")

    def make(index: int) -> Problem:
        where = f"data set {config.path}, row {chosen[index]}"
        return to_problem(read_row(rows, chosen[index], where), config, where)

    if len(chosen) > 0:
        make(0)  # reports a missing column before a run starts
    return Lazy(len(chosen), make)


def _read(config: Config) -> Any:
    try:
        import datasets
        import httpx  # the hub's own client, whose errors pass through
    except ImportError as error:
        fix = "install it with: pip install datasets"
        raise UserError(f"data 'huggingface': {error}", fix) from error
    try:
        dataset = _open(config)
        return list(islice(dataset, config.rows)) if config.streaming else dataset
    except (OSError, ValueError, datasets.exceptions.DatasetsError, httpx.HTTPError) as error:
        raise UserError(
            f"data set {config.path}, name {config.name!r}, split {config.split!r}: "
            f"{error.__cause__ or error}"
        ) from error


def _open(config: Config) -> Any:
    from datasets import load_dataset

    how = {"split": config.split, "streaming": config.streaming, "revision": config.revision}
    path = Path(config.path)
    if config.file is not None:
        at = f"@{quote(config.revision, safe='')}" if config.revision else ""
        address = f"hf://datasets/{config.path}{at}/{glob.escape(config.file)}"
        how = {"split": config.split, "streaming": config.streaming}
        return load_dataset(FORMATS[Path(config.file).suffix], data_files=address, **how)
    if not path.is_file():
        name = str(plain_path(path)) if path.is_dir() else config.path
        return load_dataset(name, config.name, **how)
    kind = FORMATS.get(path.suffix)
    if kind is None:
        raise UserError(f"{path}: this format cannot be read", f"use {', '.join(FORMATS)}")
    return load_dataset(kind, data_files=glob.escape(str(plain_path(path))), **how)
