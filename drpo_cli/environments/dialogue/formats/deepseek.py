"""Calls as DeepSeek V3 and V3.1 write them: tokens around a name and its arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from drpo_cli.environments.dialogue.formats.values import named_call, read_json
from drpo_cli.environments.dialogue.formats.written import CallError, Written
from drpo_cli.types import ToolCall

BEGIN, END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
OPEN, BETWEEN, CLOSE = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
FORM = f"{BEGIN}{OPEN}NAME{BETWEEN}{{…}}{CLOSE}{END}"
FENCED_FORM = f"{BEGIN}{OPEN}function{BETWEEN}NAME\n```json\n{{…}}\n```{CLOSE}{END}"
CALL = re.compile(f"{OPEN}(.*?){CLOSE}", re.DOTALL)
FENCED = re.compile(r"([^\n]*)\n```json\n(.*)\n```\s*", re.DOTALL)


def read(text: str, tools: Sequence[Mapping[str, Any]]) -> Written:
    """The text before the calls, and the calls. Raises CallError."""
    before, mark, after = text.partition(BEGIN)
    if not mark:
        if OPEN in text:
            raise CallError(f"{OPEN} has no {BEGIN} in front of it")
        return Written(text)
    inside, closed, _ = after.partition(END)
    if not closed:
        raise CallError(f"{BEGIN} is never closed with {END}")
    calls = CALL.findall(inside)
    if left := CALL.sub("", inside).strip():
        raise CallError(f"there is text outside {OPEN} and {CLOSE}: {left[:80]!r}")
    if not calls:
        raise CallError(f"there is no call after {BEGIN}")
    return Written(before.strip(), calls=tuple(map(_call, calls)))


def _call(text: str) -> ToolCall:
    first, mark, second = text.partition(BETWEEN)
    if not mark:
        raise CallError(f"a call needs {BETWEEN} before its arguments")
    if fenced := FENCED.fullmatch(second):
        first, second = fenced[1], fenced[2]
    return named_call(first.strip(), read_json(second, f"the text after {BETWEEN}"))
