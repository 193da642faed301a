"""A rollout of the package `verifiers` that waits for our policy where it would ask a model.

Its loop is a coroutine that asks a client for each response. Ours is a client whose responses come
from `answer`: so the loop, its tools and its stop conditions run as they are.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from drpo_cli.environments import Action, Message

_failed: ContextVar[list[str]] = ContextVar("failed")
"""What the reward functions that failed have logged: verifiers would count each as a silent 0."""
REWARDS_LOG = "verifiers.rubrics.rubric"


class _Listener(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        found = _failed.get(None)
        if found is not None and record.levelno >= logging.ERROR:
            found.append(record.getMessage())


@lru_cache
def listen() -> None:
    """Hears the failures of reward functions from now on, once per process."""
    logging.getLogger(REWARDS_LOG).addHandler(_Listener())


class Rollout:
    """One rollout: `begin`, then `answer` until it is done; then it has a state, with its score."""

    def __init__(self, environment: Any, row: Mapping[str, Any]) -> None:
        self._environment, self._row = environment, row
        self._asked: asyncio.Queue[list[Message]] = asyncio.Queue()
        self._answers: asyncio.Queue[Action] = asyncio.Queue()
        self._task: asyncio.Task[Any] | None = None
        self._turns = 0

    async def begin(self) -> list[Message]:
        """The messages of the first request. Raises what the environment raises."""
        self._task = asyncio.create_task(self._run())
        return await self._next() or []

    async def answer(self, action: Action) -> list[Message] | None:
        """The messages of the next request; None once the rollout is done and scored."""
        self._turns += 1
        self._answers.put_nowait(action)
        return await self._next()

    def state(self) -> Any:
        """The state of a rollout that is done."""
        assert self._task is not None
        return self._task.result()

    async def close(self) -> None:
        """Ends the rollout where it is; its own clean-up runs."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _next(self) -> list[Message] | None:
        assert self._task is not None
        asked = asyncio.create_task(self._asked.get())
        try:
            await asyncio.wait([self._task, asked], return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
        if asked.done() and not asked.cancelled():
            return asked.result()
        self._task.result()  # raises what it raised
        return None

    async def _run(self) -> Any:
        rubric = self._environment.rubric
        state = await self._environment.rollout(dict(self._row), self._client(), "policy", {})
        if state.get("error") is not None:
            error = state["error"]
            raise error.__cause__ or error
        failures: list[str] = []
        _failed.set(failures)
        await rubric.score_rollout(state)
        await rubric.cleanup(state)
        if failures:
            raise RuntimeError("; ".join(failures))
        return state

    def _client(self) -> Any:
        from verifiers.clients import Client

        class Policy(Client):  # type: ignore[misc]
            """Hands requests over, and waits for what the policy does."""

            def __init__(self, rollout: Rollout) -> None:
                super().__init__(rollout)

            async def get_response(self, prompt: Any, *_: Any, **__: Any) -> Any:
                return await self.client._respond(prompt)

            async def close(self) -> None:
                pass

        Policy.__abstractmethods__ = frozenset()  # of the conversions, which it has no use for
        return Policy(self)

    async def _respond(self, prompt: Sequence[Any]) -> Any:
        self._asked.put_nowait([to_message(one) for one in prompt])
        return _response(await self._answers.get(), self._turns)


def to_message(message: Any) -> Message:
    """A message of verifiers as ours. Raises ValueError for what is not text."""
    content = message.content
    if isinstance(content, list):
        parts = [part if isinstance(part, Mapping) else part.model_dump() for part in content]
        if any(part.get("type") != "text" for part in parts):
            kinds = sorted({str(part.get("type")) for part in parts} - {"text"})
            raise ValueError(f"a message has {', '.join(kinds)}; only text can be shown")
        content = "".join(part["text"] for part in parts)
    found: dict[str, Any] = {
        "role": "user" if message.role == "text" else message.role,
        "content": content or "",
    }
    if message.role == "assistant" and message.tool_calls:
        found["tool_calls"] = [
            {
                "type": "function",
                "id": call.id,
                "function": {"name": call.name, "arguments": json.loads(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        found["tool_call_id"] = message.tool_call_id
    return found


def _response(action: Action, turn: int) -> Any:
    from verifiers.types import Response, ResponseMessage, ToolCall

    calls = [
        ToolCall(
            id=call.id or f"call-{turn}-{index}",
            name=call.name,
            arguments=json.dumps(dict(call.arguments)),
        )
        for index, call in enumerate(action.calls)
    ]
    reason = "length" if action.truncated else "tool_calls" if calls else "stop"
    message = ResponseMessage(
        content=action.text,
        tool_calls=calls or None,
        finish_reason=reason,
        is_truncated=action.truncated,
    )
    return Response(id=f"turn-{turn}", created=0, model="policy", message=message)
