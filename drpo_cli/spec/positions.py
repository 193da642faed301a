"""Where every key of a TOML document stands. tomli parses but keeps no positions.

Only text that tomli has accepted may be scanned: nothing is checked here a second time.
"""

from __future__ import annotations

import re

import tomli

KeyPath = tuple[str | int, ...]
"""Keys and list indices from the top of the document: `("data", 0, "path")`."""

Position = tuple[int, int]
"""Line and column, both from 1."""

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:\\.|[^"\\])*"|'[^']*'""")
_SCALAR = re.compile(
    r'''
      """(?:\\.|[^\\])*?"{3,5}   # up to two quotes may stand right before the closing three
    | \'\'\'.*?'{3,5}
    | "(?:\\.|[^"\\])*"
    | '[^']*'
    | [^,\]}#\n]+                # numbers, booleans and dates, which may hold a space
    ''',
    re.DOTALL | re.VERBOSE,
)


def scan(text: str) -> dict[KeyPath, Position]:
    """Line and column of every table, key and list element of a valid TOML document.

    A key stands where it is written; a table and its index in an array of tables stand at the
    header's bracket; a list element stands at its value.
    """
    scanner = _Scanner(text.replace("\r\n", "\n") + "\n")
    scanner.document()
    return scanner.found


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[KeyPath, Position] = {}
        self.lengths: dict[KeyPath, int] = {}  # of each array of tables so far

    def document(self) -> None:
        table: KeyPath = ()
        while self.skip(_BLANK) < len(self.text):
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)

    def skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self.text, self.at)
        assert match is not None, f"not TOML at offset {self.at}"
        self.at = match.end()
        return self.at

    def note(self, path: KeyPath, offset: int, again: bool = False) -> None:
        if again or path not in self.found:
            line = self.text.count("\n", 0, offset) + 1
            self.found[path] = line, offset - self.text.rfind("\n", 0, offset)

    def header(self) -> KeyPath:
        start = self.at
        brackets = 2 if self.text.startswith("[[", start) else 1
        self.at += brackets
        keys = self.keys()
        self.at += brackets
        path: KeyPath = ()
        for depth, (_, key) in enumerate(keys, 1):
            path += (key,)
            own = depth == len(keys)
            self.note(path, start, again=own and brackets == 1)
            if own and brackets == 2:
                self.lengths[path] = self.lengths.get(path, 0) + 1
            if path in self.lengths:
                path += (self.lengths[path] - 1,)
                self.note(path, start)
        return path

    def keys(self) -> list[tuple[int, str]]:
        keys = []
        while True:
            start = self.skip(_SPACE)
            token = self.text[start : self.skip(_KEY)]
            keys.append((start, _unquote(token)))
            self.skip(_SPACE)
            if self.text[self.at] != ".":
                return keys
            self.at += 1

    def pair(self, path: KeyPath) -> None:
        for offset, key in self.keys():
            path += (key,)
            self.note(path, offset)
        self.at += 1  # the equals sign
        self.skip(_SPACE)
        self.value(path)

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
                self.note((*path, index), self.at)
                self.value((*path, index))
            if self.text[self.skip(_BLANK)] == ",":
                self.at += 1
                index += 1
        self.at += 1


def _unquote(token: str) -> str:
    if token[0] not in "\"'":
        return token
    key: str = tomli.loads(f"key = {token}")["key"]
    return key
