"""Values of rows: which are missing, and how the others become text or plain JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from typing import Any
from uuid import UUID

from drpo_cli.errors import UserError

MOST_DIGITS = 4300
"""Digits of the longest number: Python's own limit for text and JSON."""
MOST_LEVELS = 100
"""Levels of the most deeply nested value."""
_LONE = re.compile(r"[\ud800-\udfff]")
_TIMES_AND_NAMES = (time, timedelta, UUID, PurePath)


class UnfitError(UserError):
    """A value that a row cannot hold; `what` is the end of a sentence that names its place."""


def is_missing(value: Any) -> bool:
    """Whether the value is None or what tables have in its place: NaN, NaT, NA."""
    if value is None or isinstance(value, str | int):
        return value is None
    if isinstance(value, Decimal):
        return value.is_nan()
    if isinstance(value, float | datetime) or getattr(value, "ndim", None) == 0:
        return bool(value != value)
    return type(value).__name__ == "NAType"  # of pandas: not equal to anything, not even unequal


def as_text(value: Any) -> str | None:
    """The text of a prompt or an answer, as a person would write it; None for a missing one.

    Numbers are exact and have no exponent where they are whole: 3.0 is `3`. Raises UnfitError for
    what is not a text, a number or a date.
    """
    if is_missing(value := unpack(value)):
        return None
    for kind, write in _WRITERS:
        if isinstance(value, kind):
            return write(value)
    raise UnfitError(f"is a {type(value).__name__}", "make it a string or number")


def to_json(value: Any, replace: bool = False, levels: int = MOST_LEVELS) -> Any:
    """The value as it is after it was written as JSON and read again.

    So a reward gets in training what it gets from samples.jsonl. Tuples and sets become lists, keys
    become text, and so do dates, fractions and bytes; NaN becomes None. `replace` is for
    `valid_text`. Raises UnfitError for what JSON cannot hold.
    """
    if value is None or isinstance(value, bool):
        return value
    if type(value) is str:
        return valid_text(value, replace)
    if levels == 0:
        raise UnfitError(f"has more than {MOST_LEVELS} levels, or contains itself", "make it flat")
    if isinstance(value, Mapping):
        return {key: to_json(inner, replace, levels - 1) for key, inner in items(value, replace)}
    if isinstance(value := unpack(value), list | tuple):
        return [to_json(inner, replace, levels - 1) for inner in value]
    if isinstance(value, Set):
        return _sort(to_json(inner, replace, levels - 1) for inner in value)
    return None if is_missing(value) else _scalar(value, replace)


def _scalar(value: Any, replace: bool) -> Any:
    if isinstance(value, bool | float):
        return value if isinstance(value, bool) else float(value)
    if isinstance(value, int):
        return int(_exact(value))  # refuses one that is too long
    if isinstance(value, _TIMES_AND_NAMES):
        return valid_text(str(value), replace)
    if isinstance(value, bytes | bytearray | memoryview):
        return str(bytes(value))
    if isinstance(value, str | date | Decimal | Fraction):
        return valid_text(as_text(value) or "", replace)
    raise UnfitError(
        f"has a {type(value).__name__}, which JSON cannot hold",
        "make it text, numbers, lists or tables, or leave it out",
    )


def items(table: Mapping[Any, Any], replace: bool) -> Iterator[tuple[str, Any]]:
    """The keys, as text, with their values. Raises UnfitError for two keys of one text."""
    seen = set()
    for key, value in table.items():
        name = key if type(key) is str else to_json(key)
        name = valid_text(name, replace) if isinstance(name, str) else json.dumps(name)
        if name in seen:
            raise UnfitError(f"has two keys that are {name!r} as text", "rename one")
        seen.add(name)
        yield name, value


def valid_text(text: str, replace: bool) -> str:
    """The text itself, if it is valid Unicode.

    Raises UnfitError for a lone surrogate, which no tokenizer and no file takes; with `replace` it
    becomes U+FFFD.
    """
    found = None if text.isascii() else _LONE.search(text)
    if found is None:
        return text
    if replace:
        return _LONE.sub("\ufffd", text)
    raise UnfitError(
        f"has a lone surrogate (U+{ord(found[0]):04X}, character {found.start() + 1}), which is "
        "not valid Unicode",
        'correct it, or set invalid_unicode = "replace" in this source',
    )


def unpack(value: Any) -> Any:
    """Plain Python values of enums and of arrays and their numbers; others as they are."""
    while isinstance(value, Enum):
        value = value.value
    if not hasattr(value, "tolist") or not hasattr(value, "ndim"):
        return value
    if value.ndim > 0:
        return list(value)
    kind = getattr(value.dtype, "kind", "")
    if kind in ("M", "m"):  # dates and durations: in nanoseconds, they would become numbers
        return value.astype(f"{kind}8[us]").item()
    if kind == "f":
        return float(str(value))  # 0.1 of float32 is 0.1, not 0.10000000149011612
    return value.item()


def _exact(value: Any) -> str:
    try:
        return str(value)
    except ValueError:
        raise too_long() from None


def _float(value: float) -> str:
    if math.isfinite(value) and not value.is_integer():
        return repr(float(value))
    number = Decimal(repr(value + 0.0))  # −0.0 + 0.0 is 0.0
    return _decimal(number.to_integral_value() if number.is_finite() else number)


def _decimal(value: Decimal) -> str:
    if not value.is_finite():
        raise UnfitError("is infinite", "write a number or a text")
    if max(abs(value.adjusted()), len(value.as_tuple().digits)) > MOST_DIGITS:
        raise too_long()
    return format(value, "f")


def _moment(value: datetime) -> str:
    day = value.tzinfo is None and value.time() == time()
    return (value.date() if day else value).isoformat()


def too_long() -> UnfitError:
    """The error for a number of more than `MOST_DIGITS` digits."""
    return UnfitError(f"has a number of more than {MOST_DIGITS:,} digits", "write it as text")


def _sort(values: Iterable[Any]) -> list[Any]:
    """In an order that is the same in every process."""
    made = list(values)
    try:
        return sorted(made)
    except TypeError:
        return sorted(made, key=json.dumps)


_WRITERS: tuple[tuple[Any, Callable[[Any], str]], ...] = (
    (str, str.__str__),
    (bool, str),
    ((int, Fraction), _exact),
    (float, _float),
    (Decimal, _decimal),
    (datetime, _moment),
    (date, date.isoformat),
)
"""How each type of a text is written; the first that fits."""
