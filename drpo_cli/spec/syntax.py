"""What is wrong with a statement that is not TOML, in words, and where exactly."""

from __future__ import annotations

import re
from typing import NamedTuple

import tomli

from drpo_cli.spec.model import ARRAYS
from drpo_cli.spec.positions import Span, unquoted
from drpo_cli.spec.statements import BARE_KEY, KEY, KEYS

TOO_DEEP = "nests too deeply; a spec needs three levels"


class Wrong(NamedTuple):
    """Where in the statement it is wrong, what, and the keys that can be read off it.

    `brackets`: of a header, how many it should have on each side.
    """

    at: Span
    what: str
    keys: tuple[str, ...] = ()
    brackets: int = 1


_HEADER = re.compile(rf"\[+[ \t]*({KEYS})")
_LOOSE_KEY = re.compile(rf"({KEYS})[ \t]*")
_COMMENT = re.compile(r"[ \t]*(?:#|$)")
_WORD = re.compile(r"[^,\]}#\n]*[^,\]}#\n\s]")
_NUMBER = re.compile(r"[+-]?[\d_.]+(?:[eE][+-]?[\d_]*)?|0[xob]\w*")
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}|\d{1,2}:\d{2}")
_SWITCHES = {"true": "true", "yes": "true", "on": "true"} | dict.fromkeys(
    ("false", "no", "off"), "false"
)
_NOTHING = ("none", "null", "nil", "~")


def of_header(text: str, at: int) -> Wrong:
    """What is wrong with a header that tomli refuses at offset `at`."""
    found = _HEADER.match(text)
    line = Span(0, len(text.rstrip()))
    if found is None:
        return Wrong(line, _said("no name is in the brackets; write [section]"))
    keys = _keys(found[1])
    opened = len(text) - len(text.lstrip("["))
    brackets = 2 if keys in ARRAYS or (opened == 2 and text.count("]") != 1) else 1
    right = f"{'[' * brackets}{found[1]}{']' * brackets}"
    rest = text[found.end() :].strip()
    closed = len(rest) - len(rest.lstrip("]"))
    if closed in (1, 2) and closed == opened and rest[closed:].strip():
        start = text.index("]", found.end()) + closed
        start += len(text[start:]) - len(text[start:].lstrip())
        what = f"text follows the header {right}; move it to the next line"
        return Wrong(Span(start, line.end), _said(what), keys, brackets)
    if rest and not closed:
        what = f"the header holds more than a name; write {right}, its keys below it"
        return Wrong(Span(min(at, line.end - 1), line.end), _said(what), keys, brackets)
    return Wrong(line, _said(f"the header's brackets do not match; write {right}"), keys, brackets)


def of_pair(text: str, error: tomli.TOMLDecodeError, unclosed: int | None) -> Wrong:
    """What is wrong with a key and its value.

    `unclosed` is the offset of a quote or bracket that nothing closes.
    """
    line = Span(0, len(text.partition("\n")[0].rstrip()))
    found = _LOOSE_KEY.match(text)
    if found is None:
        what = "this is no key = value, no [section] and no # comment; mend the line"
        return Wrong(line, _said(what))
    keys = _keys(found[1])
    sign = found.end()
    if text[sign : sign + 1] != "=":
        return Wrong(*_without_equals(text, found[1], sign, line), keys)
    if (_COMMENT.match(text, sign + 1) and "\n" not in text.rstrip()) or text[sign + 1 :].isspace():
        return Wrong(Span(sign, sign + 1), _said("no value follows the =; give it one"), keys)
    before_the_hole = unclosed is None or error.pos < unclosed
    if before_the_hole and not error.msg.startswith(("Unclosed", 'Expected "\'"')):
        return Wrong(*_value(text, error, sign + 1), keys)
    if unclosed is None:
        return Wrong(*_no_comma(text, error.pos), keys)
    return Wrong(*_unclosed(text, unclosed), keys)


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
