"""What a run leaves behind, one JSON object a line: metrics, samples, quarantine."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

_STRICT = json.JSONEncoder(allow_nan=False)
_REMEMBERED = 256  # bytes before its place by which a follower knows the file again


class Records:
    """An append-only file of one JSON object a line, each with a `step`."""

    def __init__(self, path: Path):
        self.path = path

    def rewind(self, step: int) -> None:
        """Drops lines after `step`, and a last line cut short: a resumed run writes them again."""
        if not self.path.is_file():
            return
        partial = self.path.with_suffix(".partial")
        with partial.open("w") as file:
            for _, record in located(self.path):
                if record["step"] <= step:
                    file.write(json.dumps(record) + "\n")
        os.replace(partial, self.path)

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes one line and hands it to the system, so that a killed run keeps it."""
        self.extend([record])

    def extend(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Appends all in one write: other processes' lines come before or after, never between."""
        text = "".join(_line(record) + "\n" for record in records)
        left = memoryview(text.encode())
        with self.path.open("ab", buffering=0) as file:
            while left:  # a write falls short where the disk is full, and the next one says so
                left = left[file.write(left) :]


def _line(record: Mapping[str, Any]) -> str:
    try:
        return _STRICT.encode(record)
    except (ValueError, TypeError):  # a number that is not finite, a mapping that is no dict
        return _STRICT.encode(_finite(record))


def _finite(value: Any) -> Any:
    # JSON has no NaN; a value that is not finite is recorded as missing
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a records file; a last line cut short by a kill is left out."""
    return [record for _, record in located(path)] if path.is_file() else []


def located(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """What `read` gives, one at a time, each with the byte that its line begins at.

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


def at_bytes(path: Path, offsets: Iterable[int]) -> list[dict[str, Any]]:
    """The records whose lines begin at these bytes, in the order asked for."""
    with path.open("rb") as file:
        return [_line_at(file, offset) for offset in offsets]


class Tail:
    """Follows a records file that another process appends to, reading only what is new.

    started_over  the last `new` began at the top again: a resumed run had rewound the file
    broken        whole lines so far that are no JSON, which are passed over
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
        """Whether the file ended in the middle of a line: being written, or left by a kill."""
        return self._rest > 0

    def new(self) -> list[dict[str, Any]]:
        """The whole lines since the last call; a line cut short is left for the next one."""
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
        records = [parsed(line) for line in whole.split(b"\n") if line.strip()]
        self.broken += records.count(None)
        return [record for record in records if record is not None]

    def _begin(self, file: BinaryIO) -> None:
        # A rewound file is another one, which may have grown beyond the old one's end by now.
        status = os.fstat(file.fileno())
        identity = (status.st_dev, status.st_ino)
        file.seek(max(0, self._at - len(self._last)))
        same = identity == self._file and file.read(len(self._last)) == self._last
        self.started_over = self._file is not None and not same
        self._file = identity
        if not same:
            self._at, self._last, self.broken = 0, b"", 0
            file.seek(0)


def parsed(line: bytes) -> dict[str, Any] | None:
    """The record in a line; None where the line was cut short or is broken."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _line_at(file: BinaryIO, offset: int) -> dict[str, Any]:
    file.seek(offset)
    record: dict[str, Any] = json.loads(file.readline())
    return record
