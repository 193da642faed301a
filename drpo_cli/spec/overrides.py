"""`--set a.b=v`: values from the command line, put into the document before it is validated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import tomli

from drpo_cli.spec.positions import KeyPath
from drpo_cli.spec.problems import SpecError, key_text

_PART = re.compile(r"(?:^|\.)([A-Za-z0-9_-]+)|\[(\d+)\]")


def apply(document: dict[str, Any], overrides: Sequence[str]) -> dict[KeyPath, str]:
    """Writes every `key=value` into `document`; returns the text of each by the key it set.

    A value is TOML where it parses as TOML, else text. A list element is `data[0].path` or
    `data.0.path`. Raises SpecError, naming every override that has no place to go.
    """
    applied: dict[KeyPath, str] = {}
    problems = []
    for text in overrides:
        key, equals, value = text.partition("=")
        parts = _parts(key.strip())
        if not equals or not parts:
            problems.append(f"--set {text}: is not an override; write section.key=value")
            continue
        try:
            path = _assign(document, parts, parse_value(value.strip()))
        except LookupError as error:
            problems.append(f"--set {text}: {error.args[0]}")
            continue
        applied.pop(path, None)  # the last one given counts
        applied[path] = text
    if problems:
        raise SpecError(problems)
    return applied


def _parts(key: str) -> list[str]:
    found = list(_PART.finditer(key))
    whole = "".join(match[0] for match in found) == key
    return [match[1] or match[2] for match in found] if whole else []


def parse_value(text: str) -> Any:
    """A value of the command line: TOML where it parses as TOML, else text."""
    try:
        document = tomli.loads(f"value = {text}")
    except tomli.TOMLDecodeError:
        return text
    return document["value"] if len(document) == 1 else text


def _assign(document: dict[str, Any], parts: list[str], value: Any) -> KeyPath:
    """Sets the value; raises LookupError, with what is wrong, where the path does not lead on."""
    place: Any = document
    path: KeyPath = ()
    for depth, part in enumerate(parts, 1):
        step = _step(place, part, path)
        path += (step,)
        if depth == len(parts):
            place[step] = value
        elif isinstance(place, dict):
            place = place.setdefault(step, {})
        else:
            place = place[step]
    return path


def _step(place: Any, part: str, path: KeyPath) -> str | int:
    if isinstance(place, dict):
        return part
    at = key_text(path)
    if not isinstance(place, list):
        raise LookupError(f"{at}: is a single value; nothing can be set below it")
    if not part.isdigit():
        raise LookupError(f"{at}: is a list; say which entry, as in {at}[0].{part}")
    if int(part) >= len(place):
        raise LookupError(
            f"{at}[{part}]: there is no such entry; the spec has {len(place)}, counted from 0"
        )
    return int(part)
