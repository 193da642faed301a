"""Reads options of the command line: `--set a.b=v`, and a plugin with options in one word."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Any

import tomli

from drpo_cli.spec.positions import KeyPath, Place, Span, TooDeepError, scan
from drpo_cli.spec.problems import OVERRIDE, Diagnostic, Override, key_text

_PART = re.compile(r"(?:^|\.)([A-Za-z0-9_-]+)|\[(\d+)\]")


def apply_overrides(
    document: dict[str, Any], overrides: Sequence[str]
) -> tuple[dict[KeyPath, Override], list[Diagnostic]]:
    """Writes every `key=value` into `document`; returns each by the key it set, and the mistakes.

    A value that parses as TOML is TOML, any other is text. An entry of a list is `data[0].path` or
    `data.0.path`.
    """
    applied: dict[KeyPath, Override] = {}
    problems = []
    for text in overrides:
        key, equals, value = text.partition("=")
        parts = _parts(key.strip())
        if not equals or not parts:
            problems.append(_diagnostic(text, "", "is not an override; write section.key=value"))
            continue
        try:
            path = _assign(document, parts, parse_value(value.strip()))
        except _NoPlaceError as error:
            problems.append(_diagnostic(text, key_text(error.key), str(error)))
            continue
        applied.pop(path, None)  # the last one counts
        applied[path] = _override(text)
    return applied, problems


class _NoPlaceError(LookupError):
    def __init__(self, key: KeyPath, what: str) -> None:
        super().__init__(what)
        self.key = key


def _diagnostic(text: str, key: str, what: str) -> Diagnostic:
    start, end = len(OVERRIDE) + 1, len(OVERRIDE) + 1 + len(text.partition("=")[0].rstrip())
    return Diagnostic(
        severity="error",
        file="",
        key=key,
        message=what,
        column=start,
        end_column=max(end, start + 1),
        source=f"{OVERRIDE}{text}",
        origin="--set",
    )


def _override(text: str) -> Override:
    key, _, value = text.partition("=")
    start = len(key) + 1 + len(value) - len(value.lstrip())
    at = Span(start, max(len(text.rstrip()), start + 1))
    inner: dict[KeyPath, Place] = {}
    if isinstance(parse_value(value.strip()), dict | list):
        with contextlib.suppress(TooDeepError):
            inner = _below(scan(f"v={value.strip()}"), start - len("v="))
    return Override(text, Span(0, len(key.rstrip())), at, inner)


def _below(places: dict[KeyPath, Place], shift: int) -> dict[KeyPath, Place]:
    """Places below the first key, moved by `shift` characters."""
    return {
        path[1:]: Place(*(Span(span.start + shift, span.end + shift) for span in place))
        for path, place in places.items()
        if len(path) > 1
    }


def _parts(key: str) -> list[str]:
    found = list(_PART.finditer(key))
    whole = "".join(match[0] for match in found) == key
    return [match[1] or match[2] for match in found] if whole else []


def parse_value(text: str) -> Any:
    """A value of the command line: TOML if it parses as TOML, else text."""
    try:
        document = tomli.loads(f"value = {text}")
    except (tomli.TOMLDecodeError, RecursionError):
        return text
    return document["value"] if len(document) == 1 else text


def to_toml(value: Any) -> str:
    """A value on one line of TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(to_toml(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{to_toml(k)} = {to_toml(v)}" for k, v in value.items()) + "}"
    return str(value)


def parse_variant(text: str) -> tuple[str, dict[str, Any]]:
    """The type and the options of `drpo:delta=0.05`, i.e. `type:option=value:option=value`.

    Any other part belongs to the type: `./mine.py:loss:cap=3` is the function `loss` of a file.
    """
    parts = [(part, re.match(r"\s*\w+\s*=", part) is not None) for part in text.split(":")]
    name = ":".join(part for part, option in parts if not option)
    pairs = (part.partition("=") for part, option in parts if option)
    return name, {key.strip(): parse_value(value.strip()) for key, _, value in pairs}


def _assign(document: dict[str, Any], parts: list[str], value: Any) -> KeyPath:
    """Sets a value; raises _NoPlaceError where the path ends early."""
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
    if not isinstance(place, list):
        raise _NoPlaceError(path, "is a single value; nothing can be set below it")
    at = key_text(path)
    if not part.isdigit():
        raise _NoPlaceError(path, f"is a list; say which entry, as in {at}[0].{part}")
    if int(part) >= len(place):
        what = f"there is no such entry; the spec has {len(place)}, counted from 0"
        raise _NoPlaceError((*path, int(part)), what)
    return int(part)
