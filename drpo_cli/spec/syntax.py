"""Explains the first syntax error of a file that tomli refuses: where it is, and how to fix it.

tomli says what it expected where it stopped. What the writer got wrong is often elsewhere: at the
quote that nothing closes, or in the whole word that needs quotes.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from dataclasses import replace
from typing import cast

import tomli

from drpo_cli.spec.model import ARRAYS, ORDER
from drpo_cli.spec.positions import KeyPath, Lines, Scanner, Span, TooDeepError, unquoted
from drpo_cli.spec.problems import Problem

LONGEST_HEADER = 100
"""Characters of a broken header that are compared with the names of sections."""

_BARE_KEY = r"[A-Za-z0-9_-]+"
_KEY = rf"""(?:{_BARE_KEY}|"(?:\\[^\n]|[^"\\\n])*"|'[^'\n]*')"""
_KEYS = rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*"
_KEY_OF_PAIR = re.compile(rf"({_KEYS})[ \t]*")
_HEADER_NAME = re.compile(rf"\[*[ \t]*({_KEYS})")
_HEADER_WITHOUT_OPENING = re.compile(r"[A-Za-z0-9_. \t-]+\]+[ \t]*(?:#|$)", re.MULTILINE)
_NEW_STATEMENT = re.compile(
    rf"[ \t]*(?:\[\[?[ \t]*[A-Za-z_][^\n,]*\][ \t]*(?:#|$)|{_KEYS}[ \t]*=)", re.M
)
_REST_OF_LINE = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|$)")
_WORD = re.compile(r"[^,\]}#\n]*[^,\]}#\n\s]")
_TOKEN = re.compile(
    r'''
      (?P<text>"""(?:\\.|[^\\])*?"{3,5} | \'\'\'.*?'{3,5}
        | (?!"""|\'\'\')(?:"(?:\\[^\n]|[^"\\\n])*" | '[^'\n]*'))
    | (?P<quote>"""|\'\'\'|["'])
    | (?P<open>[\[{]) | (?P<close>[\]}])
    | (?P<rest>\#[^\n]* | [^\[\]{}\#"']+)
    ''',
    re.DOTALL | re.VERBOSE,
)
_NUMBER = re.compile(r"[+-]?[\d_.]+(?:[eE][+-]?[\d_]*)?|0[xob]\w*")
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}|\d{1,2}:\d{2}")
_SWITCHES = {"true": "true", "yes": "true", "on": "true"} | dict.fromkeys(
    ("false", "no", "off"), "false"
)
_NOTHING = ("none", "null", "nil", "~")
_CURLY_QUOTES = "“”„‘’«»"


def explain(text: str, error: tomli.TOMLDecodeError) -> Problem:
    """What is wrong in `text` where tomli raised `error`; lines must end in `\\n` alone."""
    if text.lstrip()[:1] == "{":
        what = "this looks like JSON, and a spec is TOML; `drpo init DIR` writes an example"
        return Problem((), _not_toml(what), at=_line(text, 0))
    start, table = _failing_statement(text, error.pos)
    statement = text[start:]
    inside = tomli.TOMLDecodeError(error.msg, statement, error.pos - start)
    twice = error.msg.startswith("Cannot")
    if statement[0] == "[":
        found = _header_twice(text, start) if twice else _broken_header(statement, inside)
    elif twice:
        found = _key_twice(text, start, table)
    elif _HEADER_WITHOUT_OPENING.match(statement):
        found = _broken_header(statement, inside)
    else:
        found = _broken_pair(statement, inside)
        found = replace(found, key=(*table, *found.key) if found.key else ())
    assert found.at is not None
    return replace(found, at=Span(start + found.at.start, start + found.at.end))


def _failing_statement(text: str, stop: int) -> tuple[int, KeyPath]:
    """Where the statement begins that tomli stopped in, and the table that it stands in."""
    scanner, table = Scanner(text), cast(KeyPath, ())
    while True:
        start = scanner.skip_blank()
        if start >= len(text):
            return text.rfind("\n", 0, len(text.rstrip())) + 1, table
        try:
            following = scanner.statement(table)
            tomli.loads(text[start : _line(text, scanner.at).end])
        except (AssertionError, IndexError, tomli.TOMLDecodeError, RecursionError, TooDeepError):
            return start, table
        if scanner.at >= stop:
            return start, table
        table = following


# --- headers ---


def _broken_header(text: str, error: tomli.TOMLDecodeError) -> Problem:
    line = text.partition("\n")[0].partition("#")[0].rstrip()
    whole = Span(0, len(line))
    keys = _section_meant(line)
    if keys is None:
        what = f"this is not a header; write [section], one of: {', '.join(ORDER)}"
        return Problem((), _not_toml(what), at=whole)
    name = ".".join(keys)
    right = f"[[{name}]]" if keys in ARRAYS else f"[{name}]"
    if error.msg.startswith("Expected newline") and line[error.pos] != "]":
        what = f"text follows the header {right}; move it to the next line"
        return Problem(keys, _not_toml(what), at=Span(error.pos, len(line)))
    what = f"the header is not a name in matching brackets; write {right}"
    return Problem(keys, _not_toml(what), at=whole)


def _section_meant(line: str) -> tuple[str, ...] | None:
    """The known section that a broken header names, or nearly names."""
    found = _HEADER_NAME.match(line)
    if found and (keys := _split(found[1]))[0] in ORDER:
        return keys
    first, *others = re.sub(r"[^A-Za-z0-9_.-]", "", line[:LONGEST_HEADER]).split(".")
    close = difflib.get_close_matches(first, ORDER, n=1, cutoff=0.7)
    return (close[0], *filter(None, others)) if close else None


def _header_twice(text: str, start: int) -> Problem:
    """A header whose name is taken."""
    scanner, _ = _scan(text[:start])
    brackets, keys, whole = Scanner(text[start:]).header()
    path: KeyPath = ()
    taken: KeyPath = ()
    for key in keys:
        path += (key,)
        taken = path if path in scanner.places else taken
        if path in scanner.lengths:
            path += (scanner.lengths[path] - 1,)
    first = scanner.places[taken].key.start
    line, name = Lines(text).position(first)[0], ".".join(keys)
    names = [part for part in taken if isinstance(part, str)]
    if text[first] == "[" and (taken in scanner.lengths or tuple(keys) in ARRAYS):
        what = f"the first is in line {line}; write [[{name}]], with two brackets on each side"
    elif text[first] == "[" and names == keys and brackets == 1:
        what = f"the first is in line {line}; join the two"
    else:
        what = f"line {line} gives it another meaning; remove one of the two"
    return Problem(tuple(keys), f"is here a second time: {what}", at=whole)


# --- keys and values ---


def _key_twice(text: str, start: int, table: KeyPath) -> Problem:
    """A key that has a value already."""
    scanner, _ = _scan(text[:start])
    here = Scanner(text[start:])
    keys = [key for key, _ in here.dotted()]
    paths = [(*table, *keys[:length]) for length in range(len(keys), 0, -1)]
    taken = next((path for path in paths if path in scanner.places), paths[0])
    what = "is here a second time; remove one of the two"
    if taken in scanner.places:
        line = Lines(text).position(scanner.places[taken].key.start)[0]
        what = f"is here a second time: the first is in line {line}; remove one of the two"
    return Problem(taken, what, at=Span(0, len(text[start : start + here.at].rstrip())))


def _broken_pair(text: str, error: tomli.TOMLDecodeError) -> Problem:
    """Explains what is wrong with a statement that should be a key and its value."""
    line = _line(text, 0)
    found = _KEY_OF_PAIR.match(text)
    if found is None:
        if hidden := _hidden_character(text, min(error.pos, len(text) - 1)):
            return Problem((), _not_toml(hidden[1]), at=hidden[0])
        what = "this is not `key = value`, [section] or a # comment; correct the line"
        if text[0] in "\"'":
            what = f"the key has no closing quote; add {text[0]} at its end"
        return Problem((), _not_toml(what), at=line)
    keys, sign = _split(found[1]), found.end()
    if text[sign : sign + 1] != "=":
        at, what = _missing_equals(text, found[1], sign, line)
    elif _REST_OF_LINE.match(text, sign + 1):
        at, what = Span(sign, sign + 1), "no value follows the =; write one"
    else:
        at, what = _broken_value(text, error, sign + 1)
    return Problem(keys, _not_toml(what), at=at)


def _missing_equals(text: str, key: str, at: int, line: Span) -> tuple[Span, str]:
    if text[at : at + 1] == ":":
        what = f"a key and its value need = between them, not a colon; write {key} = …"
        return Span(at, at + 1), what
    if at >= line.end or text[at] == "#":
        return Span(0, len(key)), f"the key has no = and no value; write {key} = …"
    return Span(at, line.end), f"no = follows the key; write {key} = …"


def _broken_value(text: str, error: tomli.TOMLDecodeError, value: int) -> tuple[Span, str]:
    at, message = min(error.pos, max(len(text) - 1, 0)), error.msg
    if message.startswith("Unescaped") or message == "Invalid hex value":
        return Span(at - 2, at), _broken_escape(text[at - 2 : at])
    if message.startswith("Duplicate inline table key"):
        key = text.rfind(message.split("'")[1], 0, at) if "'" in message else at
        what = "this table has the key a second time; remove one of the two"
        return Span(key, max(at, key + 1)), what
    if unclosed := _unclosed(text, error):
        return unclosed
    if hidden := _hidden_character(text, at):
        return hidden
    if message.startswith("Unclosed"):
        return _word(text, at), "no comma separates this from the entry before it; add a comma"
    if message.startswith("Invalid date"):
        span = _word(text, at)
        return span, f"{text[slice(*span)]} is not a date that exists; put text in quotes"
    if message == "Invalid value":
        return _not_a_value(text, at)
    if message.startswith("Expected newline"):
        return _after_value(text, at, value)
    if message.startswith("Invalid initial character") and text[at] in "}\n":  # tomli before 2.4
        return Span(at, at + 1), "a { } table is on one line, without a comma at its end; change it"
    return Span(at, at + 1), f"{message[0].lower()}{message[1:]}; correct this"


def _broken_escape(escape: str) -> str:
    if escape.lower() == "\\u":
        return "the escape \\u needs 4 hex digits, and \\U needs 8; for a plain \\ write \\\\"
    return (
        f"TOML has no escape {escape}; write \\{escape}, or put the text (a Windows path, a "
        "regular expression) in 'single quotes'"
    )


def _unclosed(text: str, error: tomli.TOMLDecodeError) -> tuple[Span, str] | None:
    """A quote or bracket that nothing closes, where that is why tomli stopped."""
    line = text.rfind("\n", 0, error.pos) + 1
    next_begins = line > 0 and _NEW_STATEMENT.match(text, line)
    brackets, end = [], line if next_begins else _line(text, error.pos).end
    for token in _TOKEN.finditer(text):
        at = token.start()
        if at >= end:
            break
        if token.lastgroup == "quote":
            return _unclosed_quote(text, at, token[0])
        if token.lastgroup == "open":
            brackets.append(at)
        elif token.lastgroup == "close" and brackets:
            brackets.pop()
    if brackets and (next_begins or error.pos >= len(text.rstrip())):
        at = brackets[-1]
        closing = {"[": "]", "{": "}"}[text[at]]
        return Span(at, at + 1), f"nothing closes this {text[at]}; add a {closing}"
    return None


def _unclosed_quote(text: str, at: int, quote: str) -> tuple[Span, str]:
    end = at + len(quote) if len(quote) == 3 else _line(text, at).end
    return Span(at, end), f"the text has no closing quote; add {quote} at its end"


def _hidden_character(text: str, at: int) -> tuple[Span, str] | None:
    """An invisible character that TOML does not allow here."""
    character = text[at]
    if character in "\n\t " or unicodedata.category(character)[0] not in "CZ":
        return None
    name = unicodedata.name(character, "a control character")
    what = f"the character U+{ord(character):04X} ({name}) must not stand here; remove it"
    return Span(at, at + 1), what


def _not_a_value(text: str, at: int) -> tuple[Span, str]:
    span = _word(text, at)
    word = text[slice(*span)]
    if not _WORD.match(text, at):
        return span, f"a value is missing before the {text[at]!r}; write one"
    if word[0] in _CURLY_QUOTES:
        return span, f'TOML knows only straight quotes; write "{word.strip(_CURLY_QUOTES)}"'
    if word[0] == "=":
        return Span(at, at + 1), "there is one = too many; remove it"
    if word.lower() in _SWITCHES:
        return span, f"a switch is true or false; write {_SWITCHES[word.lower()]}"
    if word.lower() in _NOTHING:
        return span, "TOML has no null; remove the key, which leaves it unset"
    if re.fullmatch(r"[+-]?\.\d+(e[+-]?\d+)?", word):
        return span, f"a number begins with a digit; write {word.replace('.', '0.', 1)}"
    if re.fullmatch(r"[^\"'\[{]*", word):
        return span, f'text needs quotes; write "{word}"'
    return span, "this is not a value; put quotes around the whole text"


def _after_value(text: str, at: int, value: int) -> tuple[Span, str]:
    """What is wrong with text after the end of a value."""
    line = _line(text, at)
    start = value + len(text[value:at]) - len(text[value:at].lstrip())
    word = text[start : line.end].partition("#")[0].rstrip()
    whole = Span(start, start + len(word))
    if text[at] == "," and re.fullmatch(r"\d+(,\d+)+(\.\d+)?", word):
        return whole, f"a number has no commas; write {word.replace(',', '')}"
    if text[at] == ",":
        return Span(at, at + 1), "a line must not end in a comma; remove it"
    if text[at] in "]})":
        return Span(at, at + 1), f"nothing opens this {text[at]}; remove it"
    if _DATE.match(word):
        return whole, f"{word} is not a date that exists; put text in quotes"
    if _NUMBER.match(word) and " " not in word:
        return whole, _broken_number(word)
    if text.startswith(("//", ";", "--"), at):
        return Span(at, line.end), "a comment begins with a #"
    what = "the value ends before this; put each key on its own line, and text in quotes"
    return Span(at, line.end), what


def _broken_number(word: str) -> str:
    if re.fullmatch(r"[+-]?0[\d_]+", word):
        return f"a number has no leading zeros; write {word.replace('_', '').lstrip('0') or '0'}"
    if re.fullmatch(r"[+-]?[\d_]+\.", word):
        return f"a decimal point needs digits on both sides; write {word}0"
    return f'{word} is not a number; correct it, or write "{word}" if it is text'


# --- helpers ---


def _scan(text: str) -> tuple[Scanner, KeyPath]:
    scanner = Scanner(text)
    return scanner, scanner.document()


def _split(text: str) -> tuple[str, ...]:
    """The parts of a dotted key."""
    try:
        return tuple(unquoted(key) for key in re.findall(_KEY, text))
    except tomli.TOMLDecodeError:  # a bad escape in a quoted key
        return tuple(re.findall(_BARE_KEY, text)[:1])


def _word(text: str, at: int) -> Span:
    """The word at an offset, up to a comma, a bracket or a comment; at least one character."""
    found = _WORD.match(text, at)
    return Span(at, found.end() if found else at + 1)


def _line(text: str, at: int) -> Span:
    """From an offset to the end of its line, without trailing blanks."""
    return Span(at, at + max(1, len(text[at:].partition("\n")[0].rstrip())))


def _not_toml(what: str) -> str:
    return f"is not TOML: {what}"
