"""Reads docstrings: what a function does, and what its parameters mean.

Known are the forms of Google (`Args:`), of numpy (`Parameters` underlined) and of Sphinx
(`:param name: …`).
"""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple

_GOOGLE = re.compile(r"(Args|Arguments|Parameters|Params):\s*")
_NUMPY = re.compile(r"Parameters\n-{3,}\n")
_SPHINX = re.compile(r":(?:param|parameter|arg|argument)\s+(?:[^:\n]+\s)?\*{0,2}(\w+):\s*")
_ENTRY = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*(?::|--|–)\s+(.*)|\*{0,2}(\w+):")


class Docstring(NamedTuple):
    """The first paragraph of a docstring, and the meaning of each parameter that it describes."""

    summary: str
    parameters: dict[str, str]


def read(text: str | None) -> Docstring:
    """Reads a docstring; None has neither."""
    text = inspect.cleandoc(text or "")
    first = text.split("\n\n", 1)[0]
    summary = "" if _starts_a_section(first) else re.split(r"\n(?=:\w)", first, maxsplit=1)[0]
    return Docstring(_flat(summary), _google(text) | _numpy(text) | _sphinx(text))


def _starts_a_section(text: str) -> bool:
    return bool(_GOOGLE.match(text) or _NUMPY.match(text) or _SPHINX.match(text))


def _google(text: str) -> dict[str, str]:
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if _GOOGLE.fullmatch(line)), None)
    if start is None:
        return {}
    end = next((i for i, line in enumerate(lines) if i > start and re.match(r"\S", line)), None)
    found: dict[str, str] = {}
    name = ""
    section = inspect.cleandoc("\n" + "\n".join(lines[start + 1 : end])).splitlines()
    for line in section:
        entry = _ENTRY.match(line)
        if entry:
            name = entry[1] or entry[3]
            found[name] = entry[2] or ""
        elif name:
            found[name] += f" {line}"
    return {name: _flat(words) for name, words in found.items()}


def _numpy(text: str) -> dict[str, str]:
    start = _NUMPY.search(text)
    if start is None:
        return {}
    found: dict[str, str] = {}
    names: list[str] = []
    lines = text[start.end() :].splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if re.fullmatch(r"-{3,}", below):
            break  # the next section
        if re.match(r"\S", line):
            names = re.findall(r"\w+", line.partition(":")[0])
        for name in names if line.startswith(" ") else ():
            found[name] = f"{found.get(name, '')} {line}"
    return {name: _flat(words) for name, words in found.items()}


def _sphinx(text: str) -> dict[str, str]:
    parts = re.split(r"(?:^|\n)(?=:\w)", text)
    matches = [(_SPHINX.match(part), part) for part in parts]
    return {match[1]: _flat(part[match.end() :]) for match, part in matches if match}


def _flat(text: str) -> str:
    return " ".join(text.split())
