"""The typed reader of a run's files: it takes a line, or skips and counts it.

A run folder may come from anyone and in any state. So only regular files are opened, what is read
has a largest size and depth, and a record has the types of its kind: what shows it checks nothing.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

LONGEST = 2**25  # bytes of a line; a file with a longer one is not read beyond it
LARGEST = 2**24  # bytes of a file that is read at once
DEEPEST = 40  # levels of tables and lists in a record

R = TypeVar("R")
_KEY = re.compile(r"`\$\.(\w+)")


@dataclass
class Damage:
    """What is left out of a file.

    skipped  lines that are not records of the file's kind
    trimmed  records without some of their values, which have another type
    reason   why the first of these lines is one
    unread   why the file, or what is left of it, is not read
    cut      whether the file ends within a line: it is being written, or a kill cut it short
    """

    skipped: int = 0
    trimmed: int = 0
    reason: str = ""
    unread: str = ""
    cut: bool = False

    def describe(self, name: str, being_written: bool = False) -> list[str]:
        """Says of the file `name` what is left out; a cut last line only if nobody writes it."""
        found = [f"{name} {self.unread}"] if self.unread else []
        if self.cut and not being_written:
            found.append(f"the last line of {name} was cut off, as by a kill; it is left out")
        said = []
        if self.skipped:
            said.append(f"{_count(self.skipped, 'was', 'were')} skipped")
        if self.trimmed:
            said.append(f"{_count(self.trimmed, 'has', 'have')} values of another type, left out")
        return [*found, *([f"{name}: {'; '.join(said)} ({self.reason})"] if said else [])]

    def add(self, number: int, why: str, skipped: bool) -> None:
        """Counts a line."""
        self.skipped += skipped
        self.trimmed += not skipped
        self.reason = self.reason or f"line {number}: {why}"


def _count(count: int, one: str, more: str) -> str:
    return f"1 line {one}" if count == 1 else f"{count:,} lines {more}"


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file to read. Raises OSError for anything else, which could block."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        code, what = (
            (errno.EISDIR, "Is a directory")
            if stat.S_ISDIR(mode)
            else (errno.EINVAL, "Is not a regular file")
        )
        raise OSError(code, what, str(path))
    return os.fdopen(handle, "rb", 2**18)


def read_text(path: Path, errors: str = "strict") -> str:
    """Reads a file of UTF-8 text. Raises OSError, also for one that is too large; ValueError."""
    with open_regular(path) as file:
        found = file.read(LARGEST + 1)
    if len(found) > LARGEST:
        raise OSError(errno.EFBIG, f"Is larger than {LARGEST >> 20} MiB", str(path))
    return found.decode("utf-8", errors)


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Parses a line; None where it is incomplete, broken, too deep or not an object.

    A number that is not finite becomes None, as `Records` writes it.
    """
    record: Any
    try:
        try:
            record = msgspec.json.decode(line)  # six times as fast as json
        except (msgspec.DecodeError, UnicodeDecodeError):
            # What JSON allows and msgspec does not, such as half a surrogate pair or 1e999
            record = replace_not_finite(json.loads(line))
    except (ValueError, RecursionError):
        return None
    brackets = line.count(b"[") + line.count(b"{")
    if brackets > DEEPEST and measure_depth(record) > DEEPEST:
        return None
    return record if isinstance(record, dict) else None


def check(record: dict[str, Any], kind: type[R]) -> tuple[R | None, str]:
    """The record as one of this kind, and what is wrong with it, if anything.

    Without the values that have another type; None where it needs them. Unknown keys stay.
    """
    why = ""
    while True:
        try:
            known: Any = msgspec.convert(record, kind)
            return record | known, why
        except msgspec.ValidationError as error:
            why = why or str(error)
            wrong = _KEY.search(str(error))
        except UnicodeEncodeError:
            # msgspec's complaint of half a surrogate pair, as a key or where it wants a number
            record = json.loads(json.dumps(record, ensure_ascii=False).encode(errors="replace"))
            continue
        if wrong is None or wrong[1] not in record:
            return None, why
        record = {key: value for key, value in record.items() if key != wrong[1]}


def decode(line: bytes, kind: type[R], number: int, damage: Damage) -> R | None:
    """A line as a record of this kind; None where it is none, which `damage` counts."""
    record = parse_line(line)
    found, why = (None, "not a JSON object") if record is None else check(record, kind)
    if why:
        damage.add(number, why, skipped=found is None)
    return found


def split(file: BinaryIO, damage: Damage) -> Iterator[bytes]:
    """Yields the whole lines of a file from its position on, with their newlines."""
    damage.cut = False
    while True:
        try:
            line = file.readline(LONGEST)
        except OSError as error:
            damage.unread = describe_error(error)
            return
        if not line:
            return
        if line.endswith(b"\n"):
            yield line
        elif len(line) == LONGEST:
            damage.unread = f"has a line of more than {LONGEST >> 20} MiB; nothing after it is read"
            return
        else:
            damage.cut = True


def iterate_lines(path: Path, damage: Damage) -> Iterator[tuple[int, int, bytes]]:
    """Yields each line that is not blank, with its first byte in the file and its number."""
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return
    except OSError as error:
        damage.unread = describe_error(error)
        return
    at = 0
    with file:
        for number, line in enumerate(split(file, damage), 1):
            if line.strip():
                yield at, number, line
            at += len(line)


def iterate(path: Path, kind: type[R], damage: Damage | None = None) -> Iterator[R]:
    """Yields the records of a file, which `damage` describes afterwards; none of a missing one."""
    damage = damage or Damage()
    for _, number, line in iterate_lines(path, damage):
        if (record := decode(line, kind, number, damage)) is not None:
            yield record


def read(path: Path, kind: type[R]) -> list[R]:
    """Reads what `iterate` yields."""
    return list(iterate(path, kind))


def describe_error(error: Exception) -> str:
    """`cannot be read: Is a directory`."""
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def replace_not_finite(value: Any) -> Any:
    """The value with None in place of every number that is not finite: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: replace_not_finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [replace_not_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def measure_depth(value: Any, most: int = DEEPEST) -> int:
    """Levels of tables and lists; counts no further than one beyond `most`."""
    if not isinstance(value, dict | list):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    if most == 0 or not inner:
        return 1
    return 1 + max(measure_depth(each, most - 1) for each in inner)
