"""Files of one JSON object per line: metrics, samples, held-out scores, quarantine, events."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from drpo_cli import secrets
from drpo_cli.errors import writing
from drpo_cli.runs.metrics import Stepped
from drpo_cli.runs.reader import (
    Damage,
    check,
    decode,
    describe_error,
    iterate_lines,
    open_regular,
    parse_line,
    replace_not_finite,
    split,
)

R = TypeVar("R")
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
        try:
            with writing(self.path), partial.open("wb") as file:
                for _, _, line in iterate_lines(self.path, Damage()):
                    found, _ = check(parse_line(line) or {}, Stepped)
                    if found is not None and found["step"] <= step:
                        file.write(line.removesuffix(b"\n") + b"\n")
            os.replace(partial, self.path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def end_line(self) -> None:
        """Ends a line that a kill cut short. Only while no other process appends."""
        text = self.path.read_bytes() if self.path.is_file() else b""
        if text and not text.endswith(b"\n"):
            with writing(self.path), self.path.open("ab") as file:
                file.write(b"\n")

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes one line and hands it to the system, so that it survives a kill."""
        self.extend([record])

    def extend(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Appends all lines in one write, so that other processes' lines are never among them.

        Appends none if the disk refuses.
        """
        text = secrets.mask("".join(_encode(record) + "\n" for record in records)).encode()
        with writing(self.path), self.path.open("ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            written = 0
            try:
                while written < len(text):  # on a full disk a write takes less, and the next raises
                    written += file.write(text[written:])
            except OSError:
                if written and file.seek(0, os.SEEK_END) == size + written:
                    file.truncate(size)
                raise


class Tail(Generic[R]):
    """Follows a records file that another process appends to, and reads only new lines.

    started_over  whether the last `new` began at the top again, as after a resumed run's rewind
    damage        what is left out so far
    """

    def __init__(self, path: Path, kind: type[R]):
        self.path = path
        self.started_over = False
        self.damage = Damage()
        self._kind = kind
        self._file: tuple[int, int] | None = None
        self._at = 0
        self._number = 0
        self._last = b""

    def new(self) -> list[R]:
        """Reads the whole lines since the last call; leaves an incomplete one for the next."""
        try:
            with open_regular(self.path) as file:
                self._begin(file)
                return list(self._read(file))
        except FileNotFoundError:
            return []
        except OSError as error:
            self.damage.unread = describe_error(error)
            return []

    def _read(self, file: BinaryIO) -> Iterator[R]:
        for line in split(file, self.damage):
            self._at += len(line)
            self._number += 1
            self._last = (self._last + line[-_REMEMBERED:])[-_REMEMBERED:]
            if not line.strip():
                continue
            if (record := decode(line, self._kind, self._number, self.damage)) is not None:
                yield record

    def _begin(self, file: BinaryIO) -> None:
        # A rewound file is a new one, which may already be longer than the old one was.
        status = os.fstat(file.fileno())
        identity = (status.st_dev, status.st_ino)
        file.seek(max(0, self._at - len(self._last)))
        same = identity == self._file and file.read(len(self._last)) == self._last
        self.started_over = self._file is not None and not same
        self._file = identity
        if not same:
            self._at, self._number, self._last, self.damage = 0, 0, b"", Damage()
            file.seek(0)


def _encode(record: Mapping[str, Any]) -> str:
    try:
        return _STRICT.encode(record)
    except (ValueError, TypeError):  # a number that is not finite, a mapping that is not a dict
        return _STRICT.encode(replace_not_finite(record))
