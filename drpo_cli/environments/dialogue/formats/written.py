"""What the policy wrote in a turn, taken apart."""

from __future__ import annotations

from typing import NamedTuple

from drpo_cli.types import ToolCall


class Written(NamedTuple):
    """A response: its text, its thinking, its calls of tools.

    content   the text without thinking and calls; with a `problem`, all of it but the thinking
    thinking  None without any; empty where the model wrote that it does not think
    problem   why a call is not valid, and how to write it
    """

    content: str
    thinking: str | None = None
    calls: tuple[ToolCall, ...] = ()
    problem: str | None = None


class CallError(Exception):
    """A call of a tool is not valid; the text says why."""
