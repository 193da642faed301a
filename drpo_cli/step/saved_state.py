"""torch's distributed checkpoint, written so that errors of the disk are kept, read without code.

torch's own reader unpickles the index and every value other than a tensor: whoever made a
checkpoint could run a command on the machine that loads it. This one admits the index's own types,
and values that `torch.load` reads with `weights_only`.
"""

from __future__ import annotations

import io
import pickle
import sys
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import (
    FileSystem,
    FileSystemReader,
    FileSystemWriter,
)
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from drpo_cli.errors import UserError, writing

_DCP = "torch.distributed.checkpoint"
_ADMITTED = {
    ("pathlib", "PosixPath"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    (f"{_DCP}.filesystem", "_StorageInfo"),
    *(
        (f"{_DCP}.metadata", name)
        for name in (
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    ),
}


def save(state: dict[str, Any], folder: Path, group: Any = None) -> None:
    """Writes a state dict. Raises OSError, on all ranks, if the disk refuses.

    A collective of the group, or of all ranks.
    """
    writer = FileSystemWriter(folder)
    writer.fs = _Disk()
    try:
        save_distributed(state, storage_writer=writer, process_group=group)
    except CheckpointException as failed:
        _raise_first(failed)


def load(state: dict[str, Any], folder: Path) -> None:
    """Fills a state dict in place, on all ranks together.

    Raises UserError when the folder cannot be read, or holds more than data.
    """
    _load(state, _Reader(folder))


def _load(state: dict[str, Any], reader: _Reader, alone: bool = False) -> None:
    try:
        load_distributed(state, storage_reader=reader, planner=_Planner(), no_dist=alone)
    except CheckpointException as failed:
        with reading(Path(reader.path)):
            _raise_first(failed)


class Tensors:
    """The tensors of a checkpoint whose names have a prefix, by the rest of their names.

    entries  what the index says of each
    """

    def __init__(self, folder: Path, prefix: str) -> None:
        self._reader = _Reader(folder)
        self._prefix = prefix
        self._newest: tuple[str, Tensor] | None = None
        self.entries: dict[str, TensorStorageMetadata] = {
            name.removeprefix(prefix): entry
            for name, entry in self._reader.read_metadata().state_dict_metadata.items()
            if name.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
        }

    def read(self, name: str) -> Tensor:
        """Reads one, whole, in this process alone. Keeps it until another is asked for."""
        if self._newest is None or self._newest[0] != name:
            self._newest = None  # before there is another
            entry = self.entries[name]
            tensor = torch.empty(entry.size, dtype=entry.properties.dtype)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "torch.distributed is")  # one process, on purpose
                _load({self._prefix + name: tensor}, self._reader, alone=True)
            self._newest = name, tensor
        return self._newest[1]


# What torch, pickle and zip files raise on bytes that are not what they expect
_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, ValueError, TypeError, LookupError, AttributeError,
    AssertionError, EOFError, ImportError, MemoryError, OverflowError,
)  # fmt: skip


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raises UserError where a part of a checkpoint is not what it should be."""
    try:
        yield
    except (*_UNREADABLE, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # transformers' own have none
            raise
        what = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise UserError(
            f"{path} cannot be read as a checkpoint ({what})", "use another checkpoint"
        ) from error


def _raise_first(failed: CheckpointException) -> NoReturn:
    raise min(failed.failures.items())[1][0] from failed


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not data")
        return getattr(sys.modules[module], name)


class _Reader(FileSystemReader):
    _found: Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self._found is not None:  # of a large model it takes a second
            return self._found
        path = Path(self._get_metadata_path(kwargs.get("rank")))
        with reading(path), path.open("rb") as file:
            found = _require_index(_Unpickler(file).load())
        found.storage_meta = StorageMeta(load_id=self.load_id)
        self._found = found
        return found


def _require_index(found: Any) -> Metadata:
    """Raises ValueError for an index of another type, or one that leads out of its folder."""
    if not isinstance(found, Metadata) or not isinstance(found.state_dict_metadata, dict):
        raise ValueError("it is not an index")
    for info in found.storage_data.values():
        name = info.relative_path
        if Path(name).name != name:
            raise ValueError(f"it leads out of its folder, to {name}")
    return found


class _Planner(DefaultLoadPlanner):
    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        clean = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), clean)
        clean.seek(0)
        super().load_bytes(read_item, clean)


class _Stream(io.BufferedWriter):
    """Remembers the system's error, which torch's writer of zip files replaces by its own."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


class _Disk(FileSystem):
    @contextmanager
    def create_stream(
        self, path: str | PathLike[str], mode: str
    ) -> Generator[io.IOBase, None, None]:
        with writing(Path(path)):
            if mode != "wb":
                with super().create_stream(path, mode) as plain:
                    yield plain
                return
            with _Stream(io.FileIO(path, "w")) as stream:
                try:
                    yield stream
                except RuntimeError:
                    if stream.error is not None:
                        raise stream.error from None
                    raise
