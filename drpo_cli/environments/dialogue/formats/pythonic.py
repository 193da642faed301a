"""Calls as LFM2 and Llama 4 write them: a list of calls in the syntax of Python."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from drpo_cli.environments.dialogue.formats.values import named_call
from drpo_cli.environments.dialogue.formats.written import CallError, Written
from drpo_cli.types import ToolCall

BEGIN, END = "<|tool_call_start|>", "<|tool_call_end|>"
FORM = '[NAME(argument="value")]'
MARKED_FORM = BEGIN + FORM + END
LONGEST = 100_000  # characters that Python's parser gets


def read(text: str, tools: Sequence[Mapping[str, Any]]) -> Written:
    """The calls, or the text if it is not a list of them. Raises CallError."""
    body = text.strip()
    names = [tool.get("function", tool)["name"] for tool in tools]
    if not body.startswith(tuple(f"[{name}(" for name in names)):
        return Written(text)
    return Written("", calls=_calls(body))


def read_marked(text: str, tools: Sequence[Mapping[str, Any]]) -> Written:
    """The text around the calls, and the calls between two tokens. Raises CallError."""
    before, begun, after = text.partition(BEGIN)
    if not begun:
        return Written(text)
    inside, ended, rest = after.partition(END)
    if not ended:
        raise CallError(f"{BEGIN} is never closed with {END}")
    return Written((before + rest).strip(), calls=_calls(inside.strip()))


def _calls(text: str) -> tuple[ToolCall, ...]:
    if len(text) > LONGEST:
        raise CallError(f"the calls have more than {LONGEST} characters")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CallError(f"the calls cannot be read as Python ({error})") from error
    if not isinstance(tree, ast.List) or not tree.elts:
        raise CallError("calls are a list in square brackets")
    return tuple(map(_call, tree.elts))


def _call(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise CallError(f"{ast.unparse(node)[:80]!r} is not a call of a tool")
    name = node.func.id
    if node.args or any(keyword.arg is None for keyword in node.keywords):
        raise CallError(f"the arguments of {name} need their names: {name}(argument=value)")
    try:
        values = {str(one.arg): ast.literal_eval(one.value) for one in node.keywords}
    except (ValueError, TypeError, RecursionError) as error:
        raise CallError(f"an argument of {name} is not a plain value ({error})") from error
    return named_call(name, values)
