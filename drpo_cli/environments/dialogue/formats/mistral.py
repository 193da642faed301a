"""Calls as Mistral writes them: after a token, a list of JSON objects, or names and arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from json import JSONDecodeError, JSONDecoder
from typing import Any

from drpo_cli.environments.dialogue.formats.values import make_call, named_call, read_json
from drpo_cli.environments.dialogue.formats.written import CallError, Written
from drpo_cli.types import ToolCall

CALLS, ID, ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
LIST_FORM = CALLS + '[{"name": "…", "arguments": {…}}]'
NAME_FORM = CALLS + "NAME" + ARGUMENTS + "{…}"


def read_list(text: str, tools: Sequence[Mapping[str, Any]]) -> Written:
    """The text before the calls, and the calls: a list of objects. Raises CallError."""
    before, mark, after = text.partition(CALLS)
    if not mark:
        return Written(text)
    value = read_json(after.strip(), f"the text after {CALLS}")
    if not isinstance(value, list) or not value:
        raise CallError(f"after {CALLS} comes a list of calls")
    return Written(before.strip(), calls=tuple(make_call(one, ("arguments",)) for one in value))


def read_names(text: str, tools: Sequence[Mapping[str, Any]]) -> Written:
    """The text before the calls, and the calls: a name and an object each. Raises CallError."""
    before, *calls = text.split(CALLS)
    if not calls:
        return Written(text)
    return Written(before.strip(), calls=tuple(_named(call) for call in calls))


def _named(text: str) -> ToolCall:
    head, mark, body = text.partition(ARGUMENTS)
    if not mark:
        raise CallError(f"the name of the tool and its arguments need {ARGUMENTS} between them")
    name, _, id = head.partition(ID)
    try:
        value, end = JSONDecoder().raw_decode(body.strip())
    except (JSONDecodeError, RecursionError) as error:
        raise CallError(f"the arguments cannot be read as JSON ({error})") from error
    if rest := body.strip()[end:].strip():
        raise CallError(f"there is text after the arguments: {rest[:80]!r}")
    return named_call(name.strip(), value, id.strip())
