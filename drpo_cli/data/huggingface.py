"""A data set of the Hugging Face hub, or a local folder or file, read by the `datasets` library.

Rows stay on disk, memory-mapped, and are read when asked for. Hub data sets are downloaded once
and cached; local parquet, JSON, CSV and Arrow files need no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from drpo_cli.data._fields import TableSettings, missing_column, to_problem
from drpo_cli.data._rows import Lazy
from drpo_cli.errors import UserError
from drpo_cli.types import Problem

FORMATS = {
    ".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv", ".arrow": "arrow"
}  # fmt: skip


class Config(TableSettings):
    """Options of a data set."""

    path: Annotated[str, Field(min_length=1)]
    """Hub id, or a local folder or file (relative paths count from the spec's folder)."""
    name: str | None = None
    """Configuration of the data set, where it has several."""
    split: Annotated[str, Field(min_length=1)] = "train"
    """Split, slices included: `train[:1000]`. A single file is all `train`."""

    @field_validator("path")
    @classmethod
    def _local_or_hub(cls, path: str, info: ValidationInfo) -> str:
        folder = (info.context or {}).get("folder") or Path()
        local = folder / Path(path).expanduser()
        if local.exists():
            return str(local)
        if path[0] in "./~" or local.suffix in FORMATS:
            raise ValueError(f"there is no file or folder {local}")
        return path


def load(config: Config) -> Sequence[Problem]:
    """The rows of the split. Raises UserError when it cannot be had or lacks the columns."""
    dataset = _open(config)
    where, fields = f"data set {config.path}", config.fields
    for role, name in (("prompt", fields.prompt), ("answer", fields.answer)):
        if (
            name is not None
            and name not in dataset.column_names
            and name.split(".")[0] not in dataset.column_names
        ):
            raise UserError(missing_column(name, role, dataset.column_names, where))
    return Lazy(len(dataset), lambda i: to_problem(dataset[i], fields, f"{where}, row {i}"))


def _open(config: Config) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"data 'huggingface': {error}; install it with: pip install datasets"
        ) from error
    path = Path(config.path)
    try:
        if path.is_file():
            kind = FORMATS.get(path.suffix)
            if kind is None:
                raise UserError(f"{path}: cannot read this format; use {', '.join(FORMATS)}")
            return datasets.load_dataset(kind, data_files=config.path, split=config.split)
        return datasets.load_dataset(config.path, config.name, split=config.split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"data set {config.path}, name {config.name!r}, split {config.split!r}: {error}"
        ) from error
