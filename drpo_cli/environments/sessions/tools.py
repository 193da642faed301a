"""The tools of an environment, as its processes need them: `environments/toolkit` makes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from drpo_cli.calls.failures import take_counts
from drpo_cli.environments.sessions.messages import Answer
from drpo_cli.types import Message, ToolCall


class Result(Protocol):
    """What came of a call.

    text       what the model reads
    submitted  the final answer, where the call ends the episode
    """

    @property
    def text(self) -> str:
        """What the model reads."""

    @property
    def submitted(self) -> str | None:
        """The final answer, where the call ends the episode."""


class Tools(Protocol):
    """The tools of one episode."""

    counts: Counter[str]

    async def call(self, call: ToolCall) -> Result:
        """Calls a tool: what goes wrong in it becomes a text for the model."""

    def close(self) -> None:
        """Ends what the tools have started; also while a call runs."""


class Toolbox(Protocol):
    """The tools of an environment; it is made before processes are forked.

    schemas  of the tools, in the form that chat templates take
    """

    schemas: tuple[dict[str, Any], ...]

    def open(self) -> Tools:
        """The tools of an episode; nothing is started before the first call."""


class Run:
    """The calls of one action, one after the other: results, as messages for the model.

    submitted  the final answer, once a call has ended the episode
    """

    def __init__(self, tools: Tools, calls: Sequence[ToolCall]) -> None:
        self._tools, self._left = tools, list(calls)
        self._messages: list[Message] = []
        self.submitted: str | None = None

    async def finish(self) -> None:
        """Makes the calls that are left."""
        while self._left and self.submitted is None:
            result = await self._tools.call(self._left[0])
            self._note(self._left.pop(0), result.text)
            self.submitted = result.submitted

    def give_up(self, limit: float) -> None:
        """Tells the model of the calls that are left that they took too long."""
        late = len(self._left)
        self._tools.counts.update(tool_calls=late, tool_errors=late, tool_timeouts=late)
        for call in self._left:
            self._note(call, f"error: not finished after {limit:g} seconds")
        self._left = []

    def answer(self) -> Answer:
        """What the model gets."""
        return Answer(tuple(self._messages), counts=take_counts(self._tools))

    def _note(self, call: ToolCall, text: str) -> None:
        id = {"tool_call_id": call.id} if call.id else {}
        self._messages.append({"role": "tool", "name": call.name, "content": text, **id})
