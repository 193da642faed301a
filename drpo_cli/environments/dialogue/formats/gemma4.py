"""Calls as Gemma 4 writes them: between two tokens, like JSON with a token for each quote."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from drpo_cli.environments.dialogue.formats.values import named_call, read_json
from drpo_cli.environments.dialogue.formats.written import CallError, Written
from drpo_cli.types import ToolCall

OPEN, CLOSE, QUOTE = "<|tool_call>", "<tool_call|>", '<|"|>'
FORM = f"{OPEN}call:NAME{{argument:{QUOTE}text{QUOTE},other:1}}{CLOSE}"
CALL = re.compile(f"{re.escape(OPEN)}(.*?){re.escape(CLOSE)}", re.DOTALL)
KEY = re.compile(r"([{,]\s*)([\w.-]+)(\s*:)")


def read(text: str, tools: Sequence[Mapping[str, Any]]) -> Written:
    """The text around the calls, and the calls. Raises CallError."""
    calls = tuple(map(_call, CALL.findall(text)))
    rest = CALL.sub("", text)
    if OPEN in rest:
        raise CallError(f"{OPEN} is never closed with {CLOSE}")
    return Written(rest.strip() if calls else text, calls=calls)


def _call(text: str) -> ToolCall:
    head, _, body = text.strip().partition("{")
    if not head.startswith("call:"):
        raise CallError(f"a call begins with {OPEN}call:")
    # every second part is the inside of a text; the others are JSON but for their keys
    parts = ("{" + body).split(QUOTE)
    parts[::2] = [KEY.sub(r'\1"\2"\3', part) for part in parts[::2]]
    parts[1::2] = [json.dumps(part) for part in parts[1::2]]
    name = head.removeprefix("call:").strip()
    return named_call(name, read_json("".join(parts), f"what is in the braces of {name}"))
