"""The calls of tools in one action."""

from __future__ import annotations

from collections.abc import Sequence

from drpo_cli.calls.failures import short, take_counts
from drpo_cli.environments.sessions.messages import Answer
from drpo_cli.environments.toolkit.toolbox import Tools
from drpo_cli.types import Message, ToolCall

LONGEST_ERROR = 4000
"""Characters of what the records say of a call that went wrong."""


class Run:
    """The calls of one action, one after the other: results, as messages for the model.

    submitted  the final answer, once a call has ended the episode
    """

    def __init__(self, tools: Tools, calls: Sequence[ToolCall]) -> None:
        self._tools, self._left = tools, list(calls)
        self._messages: list[Message] = []
        self._errors: list[str] = []
        self.submitted: str | None = None

    async def finish(self) -> None:
        """Makes the calls that are left."""
        while self._left and self.submitted is None:
            result = await self._tools.call(self._left[0])
            self._note(self._left.pop(0), result.text, result.error or "")
            self.submitted = result.submitted

    def give_up(self, limit: float) -> None:
        """Tells the model of the calls that are left that they took too long."""
        late = len(self._left)
        self._tools.counts.update(tool_calls=late, tool_errors=late, tool_timeouts=late)
        text = f"error: not finished after {limit:g} seconds"
        for call in self._left:
            self._note(call, text, text)
        self._left = []

    def answer(self) -> Answer:
        """What the model gets."""
        counts, errors = take_counts(self._tools), tuple(self._errors)
        return Answer(tuple(self._messages), counts=counts, errors=errors)

    def _note(self, call: ToolCall, text: str, error: str) -> None:
        self._errors.append(short(error, LONGEST_ERROR))
        id = {"tool_call_id": call.id} if call.id else {}
        self._messages.append({"role": "tool", "name": call.name, "content": text, **id})
