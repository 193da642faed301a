"""Splits a document that may not be TOML into statements, so that one mistake costs one statement.

A statement is a header, or a key with its value over all of the value's lines. Where a bracket or
a quote is never closed, it ends before the next line that can only begin a statement:

- within [ ], a line `key =` or `[name]`: neither can be an element of an array;
- within { }, a line `[name]`, or a line `key =` that no comma leads to and no } ends;
- within triple quotes, a line `[name]` alone: text may well have lines with an equals sign.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

NESTED = 64
"""Brackets within brackets that are followed."""

BARE_KEY = r"[A-Za-z0-9_-]+"
KEY = rf"""(?:{BARE_KEY}|"(?:\\[^\n]|[^"\\\n])*"|'[^'\n]*')"""
KEYS = rf"{KEY}(?:[ \t]*\.[ \t]*{KEY})*"
_PAIR = rf"[ \t]*{KEYS}[ \t]*="
_NAME = rf"(?!(?:true|false|inf|nan|[\d_-]+)\b){BARE_KEY}"  # nothing that could be a value
_HEADER = rf"[ \t]*\[\[?[ \t]*{_NAME}(?:[ \t]*\.[ \t]*{BARE_KEY})*[ \t]*\]\]?[ \t]*(?:#[^\n]*)?$"
_PAIR_LINE = re.compile(_PAIR)
_HEADER_LINE = re.compile(_HEADER, re.MULTILINE)
_NEXT_HEADER = re.compile(rf"^{_HEADER}", re.MULTILINE)
_NEXT_STATEMENT = re.compile(rf"^(?:{_HEADER}|{_PAIR})", re.MULTILINE)
_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_TOKEN = re.compile(
    r'''
      (?P<text>"""(?:\\.|[^\\])*?"{3,5} | \'\'\'.*?'{3,5})
    | (?P<endless>"""|\'\'\')
    | (?P<short>"(?:\\[^\n]|[^"\\\n])*" | '[^'\n]*')
    | (?P<quote>["'])
    | (?P<open>[\[{]) | (?P<close>[\]}]) | (?P<line>\n) | (?P<comma>,)
    | (?P<blank>[ \t]+|\#[^\n]*)
    | (?P<rest>[^\[\]{}\n,\#"'\ \t]+)
    ''',
    re.DOTALL | re.VERBOSE,
)


@dataclass(frozen=True)
class Statement:
    """Offsets of a statement's first character and of the end of its last line.

    `unclosed` is the offset of the first quote or bracket that is never closed. `swallowed`: what
    follows it, up to the next header, may be its text.
    """

    start: int
    end: int
    header: bool = False
    unclosed: int | None = None
    swallowed: bool = False


def split(text: str) -> Iterator[Statement]:
    """The statements of `text`, in order. Linear in its length but for what is never closed."""
    at = 0
    while (at := _BLANK.match(text, at).end()) < len(text):  # type: ignore[union-attr]
        statement = _Statement(text, at).read()
        yield statement
        at = statement.end


class _Statement:
    def __init__(self, text: str, start: int) -> None:
        self.text = text
        self.start = start
        self.brackets: list[int] = []
        self.unclosed: int | None = None
        self.before = ""  # the last kind of token that is no space

    def read(self) -> Statement:
        if self.text[self.start] == "[":
            return Statement(self.start, self.line_end(self.start), header=True)
        for token in _TOKEN.finditer(self.text, self.start):
            kind, at = str(token.lastgroup), token.start()
            if kind == "endless":
                return self.broken(self.first(at), _NEXT_HEADER, swallowed=True)
            if kind == "line":
                if not self.brackets:
                    return Statement(self.start, at, unclosed=self.unclosed)
                if self.interrupted(at + 1):
                    return Statement(self.start, at, unclosed=self.first(self.brackets[-1]))
            elif kind != "blank":
                self.take(kind, at)
            if len(self.brackets) > NESTED:
                break
        if self.brackets:
            return self.broken(self.first(self.brackets[-1]), _NEXT_STATEMENT)
        return Statement(self.start, len(self.text), unclosed=self.unclosed)

    def take(self, kind: str, at: int) -> None:
        self.before = kind
        if kind == "quote" and self.unclosed is None:
            self.unclosed = at
        # what follows a lone quote is its text, but for the end of a list around it
        elif kind == "open" and (self.brackets or self.unclosed is None):
            self.brackets.append(at)
        elif kind == "close" and self.brackets:
            self.brackets.pop()

    def first(self, at: int) -> int:
        return at if self.unclosed is None else min(self.unclosed, at)

    def interrupted(self, line: int) -> bool:
        """Whether the line that begins here can be no part of the brackets that are open."""
        if _HEADER_LINE.match(self.text, line):
            return True
        if not _PAIR_LINE.match(self.text, line):
            return False
        if self.text[self.brackets[-1]] == "[":
            return True
        rest = self.text[line : self.line_end(line)]
        closes = rest.count("}") > rest.count("{")  # only a comma is missing
        return not closes and self.before not in ("comma", "open")

    def broken(self, at: int, goes_on: re.Pattern[str], swallowed: bool = False) -> Statement:
        found = goes_on.search(self.text, self.line_end(self.start))
        end = found.start() if found else len(self.text)
        return Statement(self.start, end, unclosed=at, swallowed=swallowed)

    def line_end(self, at: int) -> int:
        end = self.text.find("\n", at)
        return end if end >= 0 else len(self.text)
