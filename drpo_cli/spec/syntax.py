"""What is wrong with a statement that is not TOML, in words, and where exactly."""

from __future__ import annotations

import difflib
import re
from enum import Enum, auto
from typing import NamedTuple

import tomli

from drpo_cli.spec.model import ARRAYS, ORDER
from drpo_cli.spec.positions import Span, unquoted
from drpo_cli.spec.statements import BARE_KEY, KEY, KEYS

LONGEST_HEADER = 100
"""Characters in which a broken header is looked for."""
TOO_DEEP = "nests too deeply; a spec needs three levels"


class Kind(Enum):
    """What a broken statement was to be, as far as it shows."""

    HEADER = auto()
    OPEN = auto()  # a header with more than its name
    PAIR = auto()
    SOME_PAIR = auto()  # a key that may be another than it seems, or not the only one
    LOST = auto()


class Wrong(NamedTuple):
    """Where in the statement it is wrong, what, and the keys that can be read off it."""

    at: Span
    what: str
    keys: tuple[str, ...] = ()
    kind: Kind = Kind.HEADER


_HEADER = re.compile(rf"\[*[ \t]*({KEYS})")
_STRAY_BRACKET = re.compile(rf"(\[+)[ \t]*({KEYS})[ \t]*=")
_HEADLESS = re.compile(r"[^=\[\]\"'\n]*?\[{0,2}([A-Za-z0-9_. \t-]+)\]+[ \t]*(?:#|\n|$)")
_NO_NAME = re.compile(r"[^A-Za-z0-9_.-]")
_LOOSE_KEY = re.compile(rf"({KEYS})[ \t]*")
_WORD = re.compile(r"[^,\]}#\n]*[^,\]}#\n\s]")
_NUMBER = re.compile(r"[+-]?[\d_.]+(?:[eE][+-]?[\d_]*)?|0[xob]\w*")
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}|\d{1,2}:\d{2}")
_SWITCHES = {"true": "true", "yes": "true", "on": "true"} | dict.fromkeys(
    ("false", "no", "off"), "false"
)
_NOTHING = ("none", "null", "nil", "~")


def of_header(text: str, at: int) -> Wrong:
    """What is wrong with a header that tomli refuses at offset `at`."""
    bare = text.partition("#")[0].rstrip()
    text = bare if bare.strip("[") else text.rstrip()
    line = Span(0, len(text))
    found = _STRAY_BRACKET.match(text)
    if found and _keys(found[2])[0] not in ORDER:
        what = f"nothing closes this [; write {found[2]} = …"
        return Wrong(Span(0, len(found[1])), _said(what), _keys(found[2]), Kind.PAIR)
    keys = _section_of(text)
    if keys is None:
        what = f"this is no header; write [section], one of: {', '.join(ORDER)}"
        return Wrong(line, _said(what), kind=Kind.LOST)
    right = _right(keys)
    found = _HEADER.match(text)
    rest = text[found.end() :] if found and _keys(found[1]) == keys else ""
    closed = len(rest) - len(rest.lstrip("]"))
    if closed == len(text) - len(text.lstrip("[")) and rest[closed:].strip():
        start = len(text) - len(rest[closed:].lstrip())
        what = f"text follows the header {right}; move it to the next line"
        return Wrong(Span(start, line.end), _said(what), keys, Kind.OPEN)
    if rest.strip() and not closed:
        what = f"the header holds more than a name; write {right}, its keys below it"
        return Wrong(Span(min(at, line.end - 1), line.end), _said(what), keys, Kind.OPEN)
    what = f"the header is not a name in matching brackets; write {right}"
    return Wrong(line, _said(what), keys)


def headless(text: str) -> Wrong | None:
    """What is wrong with a line that would be a known section's header, if it began like one."""
    line = Span(0, len(text.partition("\n")[0].rstrip()))
    found = _HEADLESS.match(text) if line.end <= LONGEST_HEADER else None
    keys = _section_of(found[1]) if found else None
    if keys is None:
        return None
    what = f"the header is not a name in matching brackets; write {_right(keys)}"
    return Wrong(line, _said(what), keys)


def _section_of(text: str) -> tuple[str, ...] | None:
    """The known section that a broken header names, or nearly."""
    found = _HEADER.match(text)
    if found and (keys := _keys(found[1]))[0] in ORDER:
        return keys
    first, *others = _NO_NAME.sub("", text[:LONGEST_HEADER]).split(".")
    close = difflib.get_close_matches(first, ORDER, n=1, cutoff=0.7)
    return (close[0], *filter(None, others)) if close else None


def _right(keys: tuple[str, ...]) -> str:
    name = ".".join(keys)
    return f"[[{name}]]" if keys in ARRAYS else f"[{name}]"


def of_pair(text: str, error: tomli.TOMLDecodeError, unclosed: int | None) -> Wrong:
    """What is wrong with a key and its value.

    `unclosed` is the offset of a quote or bracket that nothing closes.
    """
    line = Span(0, len(text.partition("\n")[0].rstrip()))
    found = _LOOSE_KEY.match(text)
    if found is None:
        what = "this is no key = value, no [section] and no # comment; mend the line"
        return Wrong(line, _said(what), kind=Kind.LOST)
    keys = _keys(found[1])
    sign = found.end()
    if text[sign : sign + 1] != "=":
        colon = text[sign : sign + 1] == ":"
        where, what = _without_equals(text, found[1], sign, line)
        return Wrong(where, what, keys, Kind.PAIR if colon else Kind.SOME_PAIR)
    if not text[sign + 1 :].partition("#")[0].strip():
        what = _said("no value follows the =; give it one")
        return Wrong(Span(sign, sign + 1), what, keys, Kind.PAIR)
    before_the_hole = unclosed is None or error.pos < unclosed
    if before_the_hole and not error.msg.startswith(("Unclosed", 'Expected "\'"')):
        where, what = _value(text, error, sign + 1)
    elif unclosed is None:
        where, what = _no_comma(text, error.pos)
    else:
        where, what = _unclosed(text, unclosed)
    more = "=" in text[where.end if where.end < line.end else where.start : line.end]
    return Wrong(where, what, keys, Kind.SOME_PAIR if more else Kind.PAIR)


def _without_equals(text: str, key: str, at: int, line: Span) -> tuple[Span, str]:
    if text[at : at + 1] == ":":
        return Span(at, at + 1), _said(f"a colon is where TOML has an =; write {key} = …")
    end = max(at + 1, line.end) if text[at : at + 1].strip() else at
    if end == at:
        return line, _said(f"the key has no = and no value; write {key} = …")
    return Span(at, line.end), _said(f"no = follows the key; write {key} = …")


def _unclosed(text: str, at: int) -> tuple[Span, str]:
    end = at + len(text[at:].partition("\n")[0].rstrip())
    opening = text[at]
    if text[at : at + 3] in ('"""', "'''"):
        return Span(at, at + 3), _said(f"the text has no closing {text[at : at + 3]}; add it")
    if opening in "\"'":
        return Span(at, end), _said(f"the text has no closing quote; add a {opening}")
    closing = {"[": "]", "{": "}"}[opening]
    return Span(at, at + 1), _said(f"the {opening} is never closed; add a {closing}")


def _no_comma(text: str, at: int) -> tuple[Span, str]:
    found = _WORD.match(text, at)
    what = "no comma is in front of this; separate the entries by commas"
    return Span(at, found.end() if found else at + 1), _said(what)


def _value(text: str, error: tomli.TOMLDecodeError, value: int) -> tuple[Span, str]:
    at = min(error.pos, max(len(text) - 1, 0))
    if error.msg == "Unescaped '\\' in a string":
        escape = text[at - 2 : at]
        what = f"TOML has no escape {escape}; write \\{escape}, or put the text in 'single quotes'"
        return Span(at - 2, at), _said(what)
    if error.msg == "Invalid hex value":
        return Span(max(at - 2, 0), at), _said("the escape \\u needs 4 hex digits, and \\U needs 8")
    if error.msg.startswith("Illegal character"):
        what = f"the character U+{ord(text[at]):04X} may not be in a text; take it out"
        return Span(at, at + 1), _said(what)
    if error.msg.startswith("Invalid date"):
        word = _WORD.match(text, at)
        end = word.end() if word else at + 1
        return Span(at, end), _said(f"{text[at:end]} is no date that exists; text needs quotes")
    if error.msg == "Invalid value":
        return _not_a_value(text, at)
    if error.msg.startswith("Expected newline"):
        return _too_much(text, at, value)
    if error.msg.startswith("Expected '=' after a key"):
        return Span(at, at + 1), _said("no = follows the key; write key = value")
    message = f"{error.msg[0].lower()}{error.msg[1:]}"
    return Span(at, at + 1), _said(f"{message}; mend this")


def _not_a_value(text: str, at: int) -> tuple[Span, str]:
    found = _WORD.match(text, at)
    if found is None:
        return Span(at, at + 1), _said(f"a value is missing before the {text[at]!r}; give it one")
    word, span = found[0], Span(at, found.end())
    if word[0] in "“”„‘’«":
        bare = word.strip("“”„‘’«»")
        return span, _said(f'TOML knows only straight quotes; write "{bare}"')
    if word[0] == "=":
        return Span(at, at + 1), _said("there is one = too many; take it out")
    if word.lower() in _SWITCHES:
        return span, _said(f"a switch is true or false; write {_SWITCHES[word.lower()]}")
    if word.lower() in _NOTHING:
        return span, _said("TOML has no word for nothing; take the key out")
    if re.fullmatch(r"[+-]?\.\d+(e[+-]?\d+)?", word):
        return span, _said(f"a number begins with a digit; write {word.replace('.', '0.', 1)}")
    if re.fullmatch(r"[^\"'\[{]*", word):
        return span, _said(f'text needs quotes; write "{word}"')
    return span, _said("this is no value; text needs quotes around all of it")


def _too_much(text: str, at: int, value: int) -> tuple[Span, str]:
    end = at + len(text[at:].partition("\n")[0].rstrip())
    start = value + len(text[value:at]) - len(text[value:at].lstrip())
    word = text[start:end].partition("#")[0].rstrip()
    whole = Span(start, start + len(word))
    if text[at] == "\r":
        return Span(at, at + 1), _said("a carriage return stands alone here; take it out")
    if text[at] == ",":
        return Span(at, at + 1), _said("a line has no comma at its end; take it out")
    if text[at] in "]})":
        return Span(at, at + 1), _said(f"nothing opened this {text[at]}; take it out")
    if _DATE.match(word):
        return whole, _said(f"{word} is no date that exists; text needs quotes")
    if _NUMBER.match(word) and " " not in word:
        return whole, _said(_of_number(word))
    if text.startswith(("//", ";", "--"), at):
        return Span(at, end), _said("a comment begins with a #")
    what = "the value ends before this; put each key on its own line, and text in quotes"
    return Span(at, end), _said(what)


def _of_number(word: str) -> str:
    if re.fullmatch(r"[+-]?0[\d_]+", word):
        return f"a number has no zeros in front; write {word.replace('_', '').lstrip('0') or '0'}"
    if re.fullmatch(r"[+-]?[\d_]+\.", word):
        return f"digits go on both sides of a point; write {word}0"
    return f'{word} is no number; mend it, or write "{word}" for text'


def _keys(text: str) -> tuple[str, ...]:
    try:
        return tuple(unquoted(key) for key in re.findall(KEY, text))
    except tomli.TOMLDecodeError:  # a bad escape in a quoted key
        return tuple(re.findall(BARE_KEY, text)[:1])


def _said(what: str) -> str:
    return f"is not TOML: {what}"
