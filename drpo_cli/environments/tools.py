"""Answers a prompt with tools: the model may call them, and what it writes without a call is final.

The episode starts from the row's prompt. A turn that calls tools gets their results; the first turn
that calls none ends the episode, and so does the tool `submit`. The environment gives no reward:
`[[reward]]` grades the final answer.
"""

from __future__ import annotations

import random

from pydantic import Field

from drpo_cli.environments import EnvironmentSettings, Message, Row, Step

EXAMPLES = [
    ({"tools": ["calculator"]}, Row("sums/0", "2 + 2?"), ["It is 4."], [Step(done=True)]),
]


class Config(EnvironmentSettings):
    """At least one tool."""

    weight: float = 0.0
    """Its own reward is always 0, so a `[[reward]]` has to count."""
    tools: tuple[str, ...] = Field(min_length=1, strict=False)
    """Tools that the model may call: built-in ones (`"calculator"`, `"python"`, `"submit"`), typed
    Python functions (`"./tools.py:search"`), and servers of the Model Context Protocol
    (`"mcp: command arguments"`). Relative paths count from the folder of the spec."""


class Environment:
    """A conversation that ends with the first turn without a tool call."""

    def start(self, row: Row, rng: random.Random) -> str | list[Message]:
        """The row's prompt: its chat, or its text."""
        return list(row.messages) or row.prompt

    def step(self, action: str) -> Step:
        """Ends the episode: turns that call tools do not come here."""
        return Step(done=True)
