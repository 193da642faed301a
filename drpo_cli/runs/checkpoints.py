"""Finds the checkpoints of a run, reads their records and checks their files; loads no torch."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
import xxhash

from drpo_cli.errors import UserError
from drpo_cli.runs.locks import NO_LOCKS

MARKER = "complete.json"
"""Written last into a checkpoint: a folder without it is incomplete."""
_BYTES_PER_WEIGHT = 12  # float32: the weight and AdamW's two moments
_BYTES_BESIDES = 2**24  # configuration, tokenizer, and overhead of the format
_BLOCK = 2**20


class Record(msgspec.Struct):
    """What a marker must hold, if it holds it; see `step.checkpoint` for the rest."""

    step: int
    updates: int = 0
    gap_floor: float | None = None
    score: float | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    base: str | None = None
    data: dict[str, Any] = {}
    files: dict[str, str] = {}


def checkpoint_bytes(weights: int) -> int:
    """Bytes of a checkpoint with this number of weights, those of a critic included."""
    return _BYTES_PER_WEIGHT * weights + _BYTES_BESIDES


def complete(folder: Path) -> list[Path]:
    """Finds the complete checkpoints in a folder, oldest first; some file may be damaged."""
    found = [marker.parent for marker in folder.glob(f"step-*/{MARKER}")]
    return sorted((path for path in found if path.name[5:].isdecimal()), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step in the name of a checkpoint of a run."""
    return int(checkpoint.name[5:])


def read(checkpoint: Path) -> dict[str, Any]:
    """Reads the record of a checkpoint. Raises UserError when it is incomplete or damaged."""
    marker = checkpoint / MARKER
    if not marker.is_file():
        raise UserError(f"{checkpoint} is not a complete checkpoint: it has no {MARKER}")
    try:
        record: dict[str, Any] = json.loads(marker.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{checkpoint} is damaged: {MARKER} is not JSON: {error}") from error
    try:
        msgspec.convert(record, Record)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:  # half a surrogate pair
        what = f"{MARKER} is not the record of a checkpoint ({error})"
        raise UserError(f"{checkpoint} is damaged: {what}") from error
    if ("files" in record or "checksum" in record) and record.pop("checksum", "") != _sum(record):
        raise UserError(f"{checkpoint} is damaged: the checksum of {MARKER} differs")
    return record


def write_marker(checkpoint: Path, record: Mapping[str, Any], sums: Mapping[str, str]) -> None:
    """Writes the marker, with the checksums of the other files and its own."""
    plain = json.loads(json.dumps({**record, "files": dict(sorted(sums.items()))}, default=str))
    text = json.dumps({**plain, "checksum": _sum(plain)}, indent=1)
    (checkpoint / MARKER).write_text(text, encoding="utf-8")


def checksums(checkpoint: Path, names: Iterable[str]) -> dict[str, str]:
    """The checksum of each of these files: `size:hash`."""
    return {name: _checksum(checkpoint / name) for name in names}


def file_names(checkpoint: Path) -> list[str]:
    """The files of a checkpoint apart from its marker, sorted."""
    found = (path for path in checkpoint.rglob("*") if path.is_file())
    return sorted({str(path.relative_to(checkpoint)) for path in found} - {MARKER})


def damage(checkpoint: Path, part: int = 0, parts: int = 1) -> str:
    """What is wrong with the files of a complete checkpoint; empty if nothing is.

    Of `parts` processes that share the work, this is number `part`. A checkpoint of an older
    version has no checksums.
    """
    try:
        sums = read(checkpoint).get("files", {})
    except UserError as error:
        return error.what.removeprefix(f"{checkpoint} is damaged: ")
    there = set(file_names(checkpoint))
    for name, expected in sorted(sums.items())[part::parts]:
        if name not in there:
            return f"{name} is missing"
        try:
            found = _checksum(checkpoint / name)
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
        if found != expected:
            return f"the checksum of {name} differs"
    return ""


def latest(target: Path) -> Path:
    """Finds the newest checkpoint of a run folder; a checkpoint stands for itself.

    Raises UserError when there is none.
    """
    if (target / MARKER).is_file():
        return target
    found = complete(target / "checkpoints")
    if not found:
        raise UserError(f"{target} is neither a complete checkpoint nor a run folder with one")
    return found[-1]


@contextmanager
def open_latest(target: Path) -> Iterator[Path]:
    """Yields what `latest` finds, and keeps a run that still trains from deleting it meanwhile.

    Raises UserError when it is damaged.
    """
    while True:
        checkpoint = latest(target)
        with _locked(checkpoint, fcntl.LOCK_SH) as kept:
            if not kept:
                continue  # deleted since it was found
            if what := damage(checkpoint):
                others = reversed(complete(checkpoint.parent))
                other = next((path for path in others if not damage(path)), None)
                raise UserError(
                    f"{checkpoint} is damaged: {what}",
                    f"use {other}, or delete the damaged one and train again with --resume"
                    if other
                    else "restore it from a copy, or train again",
                )
            yield checkpoint
            return


def discard(checkpoint: Path) -> None:
    """Deletes a checkpoint, at once for those who look for one; one that is being read stays."""
    with _locked(checkpoint, fcntl.LOCK_EX) as free:
        if free:
            clear_name(checkpoint)


def clear_name(checkpoint: Path) -> None:
    """Deletes a checkpoint, if there is one: a kill never leaves half of it under its name."""
    gone = checkpoint.with_suffix(".deleted.partial")
    shutil.rmtree(gone, ignore_errors=True)
    with suppress(FileNotFoundError):
        checkpoint.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


@contextmanager
def _locked(checkpoint: Path, kind: int) -> Iterator[bool]:
    """Holds the lock of a checkpoint; yields False when it is in use or was deleted."""
    try:
        handle = os.open(checkpoint / MARKER, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, kind | (fcntl.LOCK_NB if kind == fcntl.LOCK_EX else 0))
            held = os.fstat(handle).st_nlink > 0 and (checkpoint / MARKER).is_file()
        except BlockingIOError:
            held = False
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            held = True
        yield held
    finally:
        os.close(handle)


def _checksum(path: Path) -> str:
    digest, block = xxhash.xxh3_128(), memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(block):
            digest.update(block[:size])
        return f"{file.tell()}:{digest.hexdigest()}"


def _sum(record: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(record, sort_keys=True).encode())
