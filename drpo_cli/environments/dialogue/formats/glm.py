"""Calls as GLM 4.5 writes them: a name, then tags for the key and the value of each argument."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from drpo_cli.environments.dialogue.formats.coder import read_value, types_of
from drpo_cli.environments.dialogue.formats.hermes import CALL, require_closed
from drpo_cli.environments.dialogue.formats.values import named_call
from drpo_cli.environments.dialogue.formats.written import CallError, Written
from drpo_cli.types import ToolCall

FORM = "<tool_call>NAME\n<arg_key>NAME</arg_key>\n<arg_value>value</arg_value>\n</tool_call>"
ARGUMENT = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)


def read(text: str, tools: Sequence[Mapping[str, Any]]) -> Written:
    """The text around the calls, and the calls. Raises CallError. Values as in `coder`."""
    calls = tuple(_call(inside, tools) for inside in CALL.findall(text))
    rest = CALL.sub("", text)
    require_closed(rest)
    return Written(rest.strip() if calls else text, calls=calls)


def _call(text: str, tools: Sequence[Mapping[str, Any]]) -> ToolCall:
    name, mark, after = text.partition("<arg_key>")
    name = name.strip()
    if left := ARGUMENT.sub("", mark + after).strip():
        raise CallError(f"the call of {name} has text outside its arguments: {left[:80]!r}")
    types = types_of(name, tools)
    found = ARGUMENT.findall(mark + after)
    return named_call(name, {key.strip(): read_value(value, types, key) for key, value in found})
