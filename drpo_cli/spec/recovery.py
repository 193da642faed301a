"""Reads what can be read of a document that is not TOML: every statement for itself.

tomli stops at the first mistake. Here each statement is parsed alone, and put together by the rules
of TOML; one that is broken, or that contradicts an earlier one, is a mistake and is left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import tomli

from drpo_cli.spec import syntax
from drpo_cli.spec.lost import Lost
from drpo_cli.spec.model import ARRAYS
from drpo_cli.spec.positions import DEEPEST, KeyPath, Lines, Place, Scanner, Span, TooDeepError
from drpo_cli.spec.statements import BARE_KEY, Statement, split
from drpo_cli.spec.syntax import Kind

MOST = 100
"""Mistakes after which reading stops."""

_TEXT = re.compile(r'"(?:\\.|[^"\\])*"|\'[^\']*\'', re.DOTALL)
_DEEP = re.compile(
    rf"(?<![A-Za-z0-9_-])(?:{BARE_KEY}[ \t]*\.[ \t]*){{{DEEPEST}}}|(?:[\[{{][\s]*){{{DEEPEST}}}"
)


@dataclass(frozen=True)
class Mistake:
    """What is wrong with the TOML, where, and the key it is about as far as one can be read."""

    at: Span
    key: KeyPath
    what: str


@dataclass
class Recovered:
    """What could be read of a document, and what could not."""

    document: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, Place] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    lost: Lost = field(default_factory=Lost)
    sound: int = 0
    """Statements that were read."""


def may_be_deep(text: str) -> bool:
    """Whether a key may have so many parts that tomli would take long over it."""
    return _DEEP.search(text) is not None


def recover(text: str) -> Recovered:
    """Everything that can be read of `text`, whose lines must end in `\\n` alone."""
    return _Recovery(text).run()


class _Recovery:
    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = Lines(text)
        self.scanner = Scanner(text)
        self.found = Recovered(places=self.scanner.places)
        self.kinds: dict[KeyPath, str] = {}
        self.table: KeyPath = ()
        self.values: dict[str, Any] | None = self.found.document  # None: what follows has no place
        self.was_broken = False
        self.block = 0  # headers so far: dotted keys extend only tables of their own block

    def run(self) -> Recovered:
        for statement in split(self.text):
            if len(self.found.mistakes) >= MOST:
                what = f"there is more; mend these {MOST} first"
                at = Span(statement.start, statement.start + 1)
                self.found.mistakes.append(Mistake(at, (), what))
                break
            self.read(statement)
        return self.found

    def read(self, statement: Statement) -> None:
        text = self.text[statement.start : statement.end]
        if statement.header:
            self.block += 1
        try:
            if may_be_deep(text) and may_be_deep(_TEXT.sub("''", text)):
                raise TooDeepError
            parsed = tomli.loads(text)
            self.scanner.at = statement.start
            if statement.header:
                keys, brackets, at = self.scanner.header()
                self.enter(keys, brackets, at)
            else:
                self.pair(parsed)
            self.found.sound += 1
            self.was_broken = False
        except tomli.TOMLDecodeError as error:
            self.broken(statement, error)
            self.was_broken = True
        except (TooDeepError, RecursionError):
            end = statement.start + len(text.partition("\n")[0])
            self.say(Span(statement.start, end), self.table, syntax.TOO_DEEP)
            self.lose(tables=[self.table])

    def say(self, at: Span, key: KeyPath, what: str) -> None:
        self.found.mistakes.append(Mistake(at, key, what))

    def lose(self, keys: list[KeyPath] | None = None, tables: list[KeyPath] | None = None) -> None:
        self.found.lost = self.found.lost.plus(keys or (), tables or ())

    def broken(self, statement: Statement, error: tomli.TOMLDecodeError) -> None:
        text = self.text[statement.start : statement.end]
        unclosed = statement.unclosed
        if statement.header:
            wrong = syntax.of_header(text, error.pos)
        else:
            inside = None if unclosed is None else unclosed - statement.start
            wrong = syntax.headless(text) or syntax.of_pair(text, error, inside)
        at = Span(statement.start + wrong.at.start, statement.start + wrong.at.end)
        if wrong.kind in (Kind.HEADER, Kind.OPEN):
            self.say(at, wrong.keys, wrong.what)
            self.enter(list(wrong.keys), 1 + (wrong.keys in ARRAYS), at)
            self.lose(tables=[self.table] if wrong.kind is Kind.OPEN else [])
        elif statement.header and wrong.kind is Kind.LOST:
            self.say(at, (), wrong.what)
            self.table, self.values = (), None
            self.lose(tables=[()])
        else:
            # what can begin no statement goes on with a broken one
            if wrong.keys or not self.was_broken:
                self.say(at, (*self.table, *wrong.keys), wrong.what)
            self.lose_pair(wrong)
        if statement.swallowed:
            self.lose(tables=[self.table])

    def lose_pair(self, wrong: syntax.Wrong) -> None:
        if self.values is not None:
            self.lose(keys=[(*self.table, *wrong.keys)] if wrong.keys else [])
            self.lose(tables=[] if wrong.kind is Kind.PAIR else [self.table])

    def enter(self, keys: list[str], brackets: int, at: Span) -> None:
        """Goes to the table that a header opens."""
        path: KeyPath = ()
        place: Any = self.found.document
        for key in keys[:-1]:
            path = (*path, key)
            if self.kinds.setdefault(path, "implicit") == "value":
                return self.nowhere(at, (*keys,), path)
            place = place.setdefault(key, {})
            if isinstance(place, list):
                path, place = (*path, len(place) - 1), place[-1]
        own = (*path, keys[-1])
        kind = self.kinds.get(own)
        if kind == "array" or (brackets == 2 and kind is None):
            if brackets == 1:
                self.say(at, own, f"{self.taken(own)}: {_several(own)}")
            self.kinds[own], brackets = "array", 2
            place.setdefault(keys[-1], []).append({})
            self.values = place[keys[-1]][-1]
        elif brackets == 1 and kind in (None, "implicit"):
            self.kinds[own] = "table"
            self.values = place.setdefault(keys[-1], {})
        elif brackets == 1 and kind == "table":
            return self.again(at, own, place[keys[-1]])
        else:
            return self.nowhere(at, own, own)
        self.table = self.scanner.enter(keys, brackets, at)
        return None

    def again(self, at: Span, own: KeyPath, first: dict[str, Any]) -> None:
        """A second header of one table: its keys are read as the first's."""
        several = own in ARRAYS
        what = f"is here a second time; the first is in line {self.line(own)}"
        self.say(at, own, f"{what}: {_several(own) if several else 'join the two'}")
        self.table, self.values = own, None if several else first

    def nowhere(self, at: Span, key: KeyPath, taken: KeyPath) -> None:
        """A header whose table has no place: something else is there."""
        self.say(at, key, f"{self.taken(taken)}; take one of the two out")
        self.table, self.values = key, None
        self.lose(keys=[taken])

    def taken(self, key: KeyPath) -> str:
        kind = self.kinds[key]
        what = {"value": "a value", "array": "an array of tables"}.get(kind, "a single table")
        return f"is {what} already, in line {self.line(key)}"

    def line(self, key: KeyPath) -> int:
        return self.lines.position(self.scanner.places[key].key.start)[0]

    def pair(self, parsed: dict[str, Any]) -> None:
        """Puts a key and its value into the table that is open."""
        if self.values is None:
            return
        start = self.scanner.at
        keys = [key for key, _ in self.scanner.dotted()]
        end, self.scanner.at = self.scanner.at, start
        path, place, value = self.table, self.values, parsed
        taken: KeyPath | None = None
        for key in keys[:-1]:
            path, value = (*path, key), value[key]
            kind = self.kinds.setdefault(path, f"dotted {self.block}")
            if kind == "implicit":
                self.kinds[path] = f"dotted {self.block}"
            elif kind != f"dotted {self.block}":
                taken = path
                break
            place = place.setdefault(key, {})
        own = (*self.table, *keys)
        if taken is None and own in self.kinds:
            taken = own
        if taken is not None:
            at = Span(start, start + len(self.text[start:end].rstrip()))
            what = f"is there a second time; the first is in line {self.line(taken)}"
            self.say(at, taken, f"{what}: take one of the two out")
            return
        self.kinds[own] = "value"
        place[keys[-1]] = value[keys[-1]]
        self.scanner.pair(self.table)


def _several(key: KeyPath) -> str:
    return f"write [[{'.'.join(map(str, key))}]], with two brackets on each side, for each"
