"""Finds where every key of a TOML document stands: tomli parses, but keeps no positions.

Only text that tomli has accepted may be scanned: nothing is checked here a second time.
"""

from __future__ import annotations

import bisect
import re
from typing import NamedTuple

import tomli

KeyPath = tuple[str | int, ...]
"""Keys and list indices from the top of the document: `("data", 0, "path")`."""

Position = tuple[int, int]
"""Line and column, both from 1; a column counts characters."""

DEEPEST = 24
"""Longest path of keys that is followed; a spec needs about five."""


class Span(NamedTuple):
    """Offsets of the first character and the one past the last."""

    start: int
    end: int


class Place(NamedTuple):
    """Where a key is written, and where its value is.

    Both are the header of a table that has one, and the value of a list's element.
    """

    key: Span
    value: Span


class TooDeepError(Exception):
    """A path of keys is longer than `DEEPEST`; `at` is the key."""

    def __init__(self, at: Span) -> None:
        super().__init__(at)
        self.at = at


_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:\\.|[^"\\])*"|'[^']*'""")
_SCALAR = re.compile(
    r'''
      """(?:\\.|[^\\])*?"{3,5}   # up to two quotes may stand right before the closing three
    | \'\'\'.*?'{3,5}
    | "(?:\\.|[^"\\])*"
    | '[^']*'
    | [^,\]}#\n]*[^,\]}#\n\ \t]  # numbers, booleans and dates, which may hold a space
    ''',
    re.DOTALL | re.VERBOSE,
)


def scan(text: str) -> dict[KeyPath, Place]:
    """The place of every table, key and list element of a valid TOML document.

    A table and its index in an array of tables stand at the header, a list element at its value.
    Offsets count in `text`, whose lines must end in `\\n` alone. Raises TooDeepError.
    """
    scanner = Scanner(text)
    scanner.document()
    return scanner.places


class Lines:
    """The lines of a text: finds the line of an offset, and the text of a line."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.starts = [0, *(found.end() for found in re.finditer("\n", text))]

    def position(self, offset: int) -> Position:
        """Line and column of an offset."""
        line = bisect.bisect_right(self.starts, offset)
        return line, offset - self.starts[line - 1] + 1

    def line(self, number: int) -> str:
        """The text of a line, counted from 1, without its end."""
        start = self.starts[number - 1]
        end = self.text.find("\n", start)
        return self.text[start : end if end >= 0 else len(self.text)]


class Scanner:
    """Reads the statements of `text` one after the other, from the offset `at` on."""

    def __init__(self, text: str) -> None:
        self.text = text + "\n"
        self.at = 0
        self.places: dict[KeyPath, Place] = {}
        self.lengths: dict[KeyPath, int] = {}  # of each array of tables so far

    def document(self) -> KeyPath:
        """Reads all of a valid document; returns the table that is open at its end."""
        table: KeyPath = ()
        while self.skip_blank() < len(self.text):
            table = self.statement(table)
        return table

    def statement(self, table: KeyPath) -> KeyPath:
        """Reads a header or a pair; returns the table that what follows stands in."""
        if self.text[self.at] == "[":
            return self.enter(*self.header())
        self.pair(table)
        return table

    def skip_blank(self) -> int:
        """Skips blanks, empty lines and comments; returns the offset after them."""
        return self.skip(_BLANK)

    def skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self.text, self.at)
        assert match is not None, f"not TOML at offset {self.at}"
        self.at = match.end()
        return self.at

    def note(self, path: KeyPath, key: Span, value: Span | None = None, new: bool = False) -> None:
        if len(path) > DEEPEST:
            raise TooDeepError(key)
        if new or path not in self.places:
            self.places[path] = Place(key, value or key)

    def header(self) -> tuple[int, list[str], Span]:
        """Reads a header: its brackets on each side, its keys, and where it is."""
        start = self.at
        brackets = 2 if self.text.startswith("[[", start) else 1
        self.at += brackets
        keys = [key for key, _ in self.dotted()]
        self.at += brackets
        return brackets, keys, Span(start, self.at)

    def enter(self, brackets: int, keys: list[str], at: Span) -> KeyPath:
        """The table that a header opens: with two brackets, a new one of its array."""
        path: KeyPath = ()
        for depth, key in enumerate(keys, 1):
            path += (key,)
            own = depth == len(keys)
            self.note(path, at, new=own and brackets == 1)
            if own and brackets == 2:
                self.lengths[path] = self.lengths.get(path, 0) + 1
            if path in self.lengths:
                path += (self.lengths[path] - 1,)
                self.note(path, at)
        return path

    def dotted(self) -> list[tuple[str, Span]]:
        """Reads a key, which dots may separate: its parts, each with its place."""
        keys = []
        while True:
            start = self.skip(_SPACE)
            token = self.text[start : self.skip(_KEY)]
            keys.append((unquoted(token), Span(start, self.at)))
            self.skip(_SPACE)
            if self.text[self.at] != ".":
                return keys
            self.at += 1

    def pair(self, path: KeyPath) -> None:
        """Reads a key and its value, in the table `path`."""
        written = self.dotted()
        self.at += 1  # the equals sign
        value = self.skip(_SPACE)
        own = (*path, *(key for key, _ in written))
        for depth, (_, span) in enumerate(written, len(path) + 1):
            self.note(own[:depth], span)
        self.value(own)
        place = self.places[own]
        if place.key == written[-1][1]:
            self.places[own] = Place(place.key, Span(value, self.at))

    def value(self, path: KeyPath) -> None:
        opening = self.text[self.at]
        if opening not in "[{":
            self.skip(_SCALAR)
            return
        self.at += 1
        index = 0
        while self.text[self.skip(_BLANK)] not in "]}":
            if opening == "{":
                self.pair(path)
            else:
                start = self.at
                self.value((*path, index))
                self.note((*path, index), Span(start, self.at))
            if self.text[self.skip(_BLANK)] == ",":
                self.at += 1
                index += 1
        self.at += 1


def unquoted(token: str) -> str:
    """The key that a token of TOML stands for."""
    if token[0] not in "\"'":
        return token
    key: str = tomli.loads(f"key = {token}")["key"]
    return key
