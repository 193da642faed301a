"""Calls as Qwen3-Coder writes them: tags for the function and for each parameter."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from drpo_cli.environments.dialogue.formats.hermes import CALL, require_closed
from drpo_cli.environments.dialogue.formats.values import named_call
from drpo_cli.environments.dialogue.formats.written import CallError, Written
from drpo_cli.types import ToolCall

FORM = (
    "<tool_call>\n<function=NAME>\n<parameter=NAME>\nvalue\n</parameter>\n</function>\n</tool_call>"
)
FUNCTION = re.compile(r"\s*<function=([^>\n]*)>(.*)</function>\s*", re.DOTALL)
PARAMETER = re.compile(r"<parameter=([^>\n]*)>(.*?)</parameter>", re.DOTALL)


def read(text: str, tools: Sequence[Mapping[str, Any]]) -> Written:
    """The text around the calls, and the calls. Raises CallError.

    A value is text, unless the schema of its tool gives the parameter another type: then it is
    JSON.
    """
    calls = tuple(_call(inside, tools) for inside in CALL.findall(text))
    rest = CALL.sub("", text)
    require_closed(rest)
    return Written(rest.strip() if calls else text, calls=calls)


def _call(text: str, tools: Sequence[Mapping[str, Any]]) -> ToolCall:
    function = FUNCTION.fullmatch(text)
    if function is None:
        raise CallError("the text between <tool_call> and </tool_call> is not one function")
    name, body = function[1], function[2]
    if left := PARAMETER.sub("", body).strip():
        raise CallError(f"the call of {name} has text outside its parameters: {left[:80]!r}")
    types = types_of(name, tools)
    values = {}
    for parameter, value in PARAMETER.findall(body):
        values[parameter] = read_value(
            value.removeprefix("\n").removesuffix("\n"), types, parameter
        )
    return named_call(name, values)


def read_value(text: str, types: Mapping[str, Any], name: str) -> Any:
    """The value of a parameter: text where its type is that or unknown, else JSON."""
    if types.get(name, "string") == "string":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text  # which the tool's schema refuses, with words of its own


def types_of(name: str, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The types of a tool's parameters, by their names, as its JSON schema has them."""
    for tool in tools:
        function = tool.get("function", tool)
        if function.get("name") == name:
            properties = function.get("parameters", {}).get("properties", {})
            return {key: value.get("type") for key, value in properties.items()}
    return {}
