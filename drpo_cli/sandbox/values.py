"""Values as JSON: what may cross between the tests and the code that they test.

Only values of exactly a built-in type, and of some types of the standard library and numpy, are
copied: their comparison is not the code's. Anything else is for the caller's `Other`, which names
it by a handle. What `decode` is given may be hostile: it builds the types below and nothing else.

Standard library only, and nothing from this package: it also runs inside the sandbox.
"""

from __future__ import annotations

import builtins
import re
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

DEPTH = 100  # of containers in each other
_LARGEST = 1 << 53  # JSON's own integers; above, hexadecimal takes linear time
SEQUENCES: dict[str, Any] = {kind.__name__: kind for kind in (list, tuple, set, frozenset, deque)}
MAPPINGS: dict[str, Any] = {
    kind.__name__: kind for kind in (dict, OrderedDict, defaultdict, Counter)
}
MUTABLE = (list, set, deque, bytearray, *MAPPINGS.values())
CLASSES = (
    *(bool, int, float, complex, str, bytes, bytearray, range, slice, object, type(None)),
    *(list, tuple, set, frozenset, dict),
)
ATOMS: dict[str, tuple[Any, Callable[[Any], list[Any]]]] = {
    "complex": (complex, lambda v: [v.real, v.imag]),
    "range": (range, lambda v: [v.start, v.stop, v.step]),
    "slice": (slice, lambda v: [v.start, v.stop, v.step]),
    "Fraction": (Fraction, lambda v: [v.numerator, v.denominator]),
    "Decimal": (Decimal, lambda v: [str(v)]),
    "date": (date, lambda v: [v.year, v.month, v.day]),
    "time": (time, lambda v: [v.hour, v.minute, v.second, v.microsecond]),
    "datetime": (
        datetime,
        lambda v: [v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond],
    ),
    "timedelta": (timedelta, lambda v: [v.days, v.seconds, v.microseconds]),
}
_TAGS = {kind: name for name, (kind, _) in ATOMS.items()}
_DTYPE = re.compile(r"[<>|=][biufcSU]\d+")


class Encoder:
    """Encodes the values of one message.

    other   names a value that is not plain
    known   places of mutable containers that the other side has too, by id
    share   numbers the mutable containers that it meets, in `met`, so that the other side can
            tell what became of them
    """

    def __init__(
        self, other: Callable[[Any], Any], known: dict[int, int] | None = None, share: bool = False
    ) -> None:
        self._other, self._share = other, share
        self._known = {} if known is None else dict(known)
        self.met: list[Any] = []

    def encode(self, value: Any, depth: int = 0) -> Any:
        """Raises ValueError for what is nested too deeply."""
        kind = type(value)
        if value is None or kind is bool or kind is str or kind is float:
            return value
        if kind is int:
            return value if -_LARGEST < value < _LARGEST else ["int", hex(value)]
        if id(value) in self._known:
            return ["known", self._known[id(value)]]
        return self.encode_parts(value, depth)

    def encode_parts(self, value: Any, depth: int = 0) -> Any:
        """Encodes a container whose place is known by what it holds."""
        if depth > DEPTH:
            raise ValueError("a value is nested too deeply")
        kind, place = type(value), []
        if self._share and kind in MUTABLE:
            place = [len(self.met)]
            self._known[id(value)] = len(self.met)
            self.met.append(value)
        if kind in SEQUENCES.values():
            return [kind.__name__, [self.encode(part, depth + 1) for part in value], *place]
        if kind in MAPPINGS.values():
            pairs = [
                [self.encode(key, depth + 1), self.encode(part, depth + 1)]
                for key, part in value.items()
            ]
            return [kind.__name__, pairs, *place]
        if kind is bytes or kind is bytearray:
            return [kind.__name__, value.hex(), *place]
        if kind in _TAGS and getattr(value, "tzinfo", None) is None:
            parts = ATOMS[_TAGS[kind]][1](value)
            return [_TAGS[kind], [self.encode(part, depth + 1) for part in parts]]
        if kind is type and value in CLASSES:
            return ["class", value.__name__]
        return _encode_numpy(value) or self._other(value)


class Decoder:
    """Decodes the values of one message. Raises ValueError and TypeError for others.

    other   gives the value of a tag that is not plain
    known   the mutable containers that both sides have; it also takes those that are numbered
    """

    def __init__(self, other: Callable[[list[Any]], Any], known: list[Any]) -> None:
        self._other, self._known = other, known

    def decode(self, found: Any, depth: int = 0) -> Any:
        """Returns a new value."""
        if not isinstance(found, list):
            if isinstance(found, dict):
                raise ValueError("not a value")
            return found
        if depth > DEPTH:
            raise ValueError("a value is nested too deeply")
        tag = found[0]
        if tag in _ALONE:
            return _ALONE[tag](*found[1:])
        if tag == "known":
            return self._known[found[1]]
        if tag in ("tuple", "frozenset", "bytes"):
            return self._contents(found, depth)
        if tag in ("list", "set", "deque", "bytearray", *MAPPINGS):
            kind = getattr(builtins, tag, None) or SEQUENCES.get(tag) or MAPPINGS[tag]
            made = kind()
            if len(found) == 3:
                self._known.append(made)
            self.fill(made, found, depth)
            return made
        if tag in ATOMS:
            return ATOMS[tag][0](*(self.decode(part, depth + 1) for part in found[1]))
        return self._other(found)

    def fill(self, made: Any, found: list[Any], depth: int = 0) -> None:
        """Gives a mutable container the contents that were sent."""
        contents = self._contents(found, depth)
        made.clear()
        if isinstance(made, list | deque | bytearray):
            made.extend(contents)
        else:
            made.update(contents)

    def _contents(self, found: list[Any], depth: int) -> Any:
        tag = found[0]
        if tag in ("bytes", "bytearray"):
            return bytes.fromhex(found[1])
        if tag in MAPPINGS:
            pairs = [[self.decode(part, depth + 1) for part in pair] for pair in found[1]]
            return dict(pairs)
        parts = [self.decode(part, depth + 1) for part in found[1]]
        return parts if tag not in ("tuple", "frozenset") else SEQUENCES[tag](parts)


def base_of(value: Any) -> Any:
    """The built-in value that an object of a derived class holds. Raises TypeError without one."""
    kind: Any
    for kind in (int, float, complex, str, bytes, bytearray):
        if isinstance(value, kind):
            return kind(value) if kind in (bytes, bytearray) else kind.__add__(value, kind())
    for kind in SEQUENCES.values():
        if isinstance(value, kind):
            return kind(kind.__iter__(value))
    if isinstance(value, dict):
        return dict(dict.items(value))
    if isinstance(value, type({}.keys()) | type({}.items())):
        return set(value)
    raise TypeError("it holds no built-in value")


def base_name(value: Any) -> str | None:
    """The name of the built-in class that the value's class is derived from."""
    kinds = (int, float, complex, str, bytes, bytearray, *SEQUENCES.values(), dict)
    found = next((kind.__name__ for kind in kinds if isinstance(value, kind)), None)
    return "set" if isinstance(value, type({}.keys()) | type({}.items())) else found


def _encode_numpy(value: Any) -> list[Any] | None:
    numpy = sys.modules.get("numpy")
    if numpy is None or type(value).__module__ != "numpy":
        return None
    if not isinstance(value, numpy.ndarray | numpy.generic) or not _DTYPE.fullmatch(
        value.dtype.str
    ):
        return None
    return ["numpy", value.dtype.str, list(value.shape), value.tobytes().hex()]


def _decode_numpy(dtype: str, shape: list[int], contents: str) -> Any:
    import numpy

    if not _DTYPE.fullmatch(dtype):
        raise ValueError("not a number's type")
    flat = numpy.frombuffer(bytes.fromhex(contents), dtype)
    return flat.reshape(shape).copy() if shape else flat.copy()[0]


_ALONE: dict[str, Callable[..., Any]] = {
    "int": lambda digits: int(digits, 16),
    "class": lambda name: next(kind for kind in CLASSES if kind.__name__ == name),
    "numpy": _decode_numpy,
}
