"""Calls out of JSON, with errors that a model can learn from."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from drpo_cli.environments.dialogue.formats.written import CallError
from drpo_cli.types import ToolCall

NAME = re.compile(r"[\w.:/-]+")


def read_json(text: str, what: str) -> Any:
    """The value of a JSON text. Raises CallError, naming `what` it should be."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CallError(f"{what} cannot be read as JSON ({error})") from error


def make_call(value: Any, arguments: Sequence[str] = ("arguments", "parameters")) -> ToolCall:
    """The call that an object says. Raises CallError.

    `arguments` are the keys that its arguments may have; without one, it has none.
    """
    if not isinstance(value, dict):
        raise CallError(f"a call is an object with a name and arguments, not {_kind(value)}")
    if "name" not in value:
        raise CallError('the call has no "name"')
    key = next((key for key in arguments if key in value), None)
    id = value.get("id", "")
    return named_call(value["name"], {} if key is None else value[key], id)


def named_call(name: Any, arguments: Any, id: Any = "") -> ToolCall:
    """A call of a tool. Raises CallError for a name that is none, and for other arguments."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise CallError(f"{str(name)[:80]!r} is not the name of a tool")
    if not isinstance(arguments, dict):
        raise CallError(f"the arguments of {name} are an object, not {_kind(arguments)}")
    try:
        json.dumps(arguments, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError) as error:  # half a character, a set, …
        raise CallError(f"the arguments of {name} cannot be JSON ({error})") from error
    return ToolCall(name, arguments, id if isinstance(id, str) else "")


def _kind(value: Any) -> str:
    kinds = {str: "a text", list: "a list", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
