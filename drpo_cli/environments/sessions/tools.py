"""What a set of tools offers to an episode."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

from drpo_cli.types import ToolCall


class Toolbox(Protocol):
    """The tools of one episode.

    schemas  of the tools, as chat templates take them
    """

    schemas: tuple[dict[str, Any], ...]

    def call(self, call: ToolCall) -> str | Awaitable[str]:
        """The result, as text for the model; raises whatever the tool raises."""

    def close(self) -> object:
        """Ends what the tools have started; may be awaited."""
