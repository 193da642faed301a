"""Files of one JSON object per line: metrics, samples, held-out scores, quarantine, events."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from drpo_cli import secrets

_STRICT = json.JSONEncoder(allow_nan=False)
_REMEMBERED = 256  # bytes before its position by which a follower recognises the file


class Records:
    """An append-only file of one JSON object per line, each with a `step`."""

    def __init__(self, path: Path):
        self.path = path

    def rewind(self, step: int) -> None:
        """Drops lines after `step`, and an incomplete last one: a resumed run writes them again."""
        if not self.path.is_file():
            return
        partial = self.path.with_suffix(".partial")
        with partial.open("w") as file:
            for _, record in read_with_offsets(self.path):
                if record["step"] <= step:
                    file.write(json.dumps(record) + "\n")
        os.replace(partial, self.path)

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes one line and hands it to the system, so that it survives a kill."""
        self.extend([record])

    def extend(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Appends all lines in one write, so that other processes' lines are never among them."""
        text = secrets.mask("".join(_encode(record) + "\n" for record in records))
        left = memoryview(text.encode())
        with self.path.open("ab", buffering=0) as file:
            while left:  # on a full disk a write takes less, and the next one raises
                left = left[file.write(left) :]


def read(path: Path) -> list[dict[str, Any]]:
    """Reads all records; leaves out a last line that a kill cut short."""
    return [record for _, record in read_with_offsets(path)] if path.is_file() else []


def read_with_offsets(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields what `read` returns, each record with the byte at which its line begins.

    Raises FileNotFoundError.
    """
    at = 0
    with path.open("rb") as file:
        for line in file:
            try:
                yield at, json.loads(line)
            except json.JSONDecodeError:
                if line.endswith(b"\n"):
                    raise
                return  # the process died while writing it
            at += len(line)


def read_at(path: Path, offsets: Iterable[int]) -> list[dict[str, Any]]:
    """Reads the records whose lines begin at these bytes, in the order asked for."""
    found = []
    with path.open("rb") as file:
        for offset in offsets:
            file.seek(offset)
            found.append(json.loads(file.readline()))
    return found


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Parses a line; None where it is incomplete, broken or not an object."""
    record: Any
    try:
        record = msgspec.json.decode(line)  # six times as fast as json
    except msgspec.DecodeError:
        try:  # what JSON allows and msgspec does not, such as half a surrogate pair
            record = json.loads(line)
        except ValueError:
            return None
    return record if isinstance(record, dict) else None


class Tail:
    """Follows a records file that another process appends to, and reads only new lines.

    started_over  whether the last `new` began at the top again, as after a resumed run's rewind
    broken        number of whole lines so far that are not JSON objects; they are skipped
    """

    def __init__(self, path: Path):
        self.path = path
        self.started_over = False
        self.broken = 0
        self._file: tuple[int, int] | None = None
        self._at = 0
        self._last = b""
        self._rest = 0

    @property
    def cut(self) -> bool:
        """Whether the file ends within a line: it is being written, or a kill cut it short."""
        return self._rest > 0

    def new(self) -> list[dict[str, Any]]:
        """Reads the whole lines since the last call; leaves an incomplete one for the next."""
        try:
            with self.path.open("rb") as file:
                self._begin(file)
                found = file.read()
        except FileNotFoundError:
            return []
        whole, newline, rest = found.rpartition(b"\n")
        self._at += len(whole) + len(newline)
        self._rest = len(rest)
        self._last = (self._last + whole + newline)[-_REMEMBERED:]
        records = [parse_line(line) for line in whole.split(b"\n") if line.strip()]
        self.broken += records.count(None)
        return [record for record in records if record is not None]

    def _begin(self, file: BinaryIO) -> None:
        # A rewound file is a new one, which may already be longer than the old one was.
        status = os.fstat(file.fileno())
        identity = (status.st_dev, status.st_ino)
        file.seek(max(0, self._at - len(self._last)))
        same = identity == self._file and file.read(len(self._last)) == self._last
        self.started_over = self._file is not None and not same
        self._file = identity
        if not same:
            self._at, self._last, self.broken = 0, b"", 0
            file.seek(0)


def _encode(record: Mapping[str, Any]) -> str:
    try:
        return _STRICT.encode(record)
    except (ValueError, TypeError):  # a number that is not finite, a mapping that is not a dict
        return _STRICT.encode(_replace_not_finite(record))


def _replace_not_finite(value: Any) -> Any:
    # JSON has no NaN: a value that is not finite is written as null
    if isinstance(value, Mapping):
        return {key: _replace_not_finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_not_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
