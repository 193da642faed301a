"""What a tool may answer beside a plain value."""

from __future__ import annotations

from dataclasses import dataclass


class ToolError(Exception):
    """A problem in words for the model: they become the tool's result, and count as an error."""


@dataclass(frozen=True)
class Submit:
    """Returned by a tool that ends the episode, with the final answer."""

    answer: str
