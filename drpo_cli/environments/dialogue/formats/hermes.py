"""Calls as Hermes and Qwen write them: JSON between two tags, once for each call."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from drpo_cli.environments.dialogue.formats.values import make_call, read_json
from drpo_cli.environments.dialogue.formats.written import CallError, Written

FORM = '<tool_call>\n{"name": "…", "arguments": {…}}\n</tool_call>'
OPEN, CLOSE = "<tool_call>", "</tool_call>"
CALL = re.compile(f"{OPEN}(.*?){CLOSE}", re.DOTALL)


def read(text: str, tools: Sequence[Mapping[str, Any]]) -> Written:
    """The text around the calls, and the calls. Raises CallError."""
    calls = tuple(
        make_call(read_json(inside.strip(), f"the text between {OPEN} and {CLOSE}"), ("arguments",))
        for inside in CALL.findall(text)
    )
    rest = CALL.sub("", text)
    require_closed(rest)
    return Written(rest.strip() if calls else text, calls=calls)


def require_closed(rest: str) -> None:
    """Raises CallError for a tag that is left in the text around the calls."""
    if OPEN in rest:
        raise CallError(f"{OPEN} is never closed with {CLOSE}")
    if CLOSE in rest:
        raise CallError(f"{CLOSE} has no {OPEN} in front of it")
