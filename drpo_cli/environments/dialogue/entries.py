"""A conversation as a chat template gets it: as it is, or with marks in place of sampled text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drpo_cli.environments.dialogue.formats.written import Written
from drpo_cli.types import Message, ToolCall

ARGUMENT = "x"  # the only argument of a call whose arguments are hidden


@dataclass(frozen=True)
class Entry:
    """One message of a conversation.

    written   what the policy wrote; None for messages of others
    observed  whether an environment or a tool said it after the start
    explains  whether it says what is wrong with a call: it shows how to write one
    """

    message: Message
    written: Written | None = None
    observed: bool = False
    explains: bool = False


@dataclass(frozen=True)
class Spelling:
    """How a template wants messages of the assistant.

    thinking           the key of thinking
    text_arguments     whether the arguments of calls are JSON texts, and not objects
    thinks_or_answers  whether a message with calls has no place for text beside thinking
    escape             keeps observed text from becoming control tokens
    escape_special     the same, but leaves markup such as `<tool_call>`
    """

    thinking: str
    text_arguments: bool
    thinks_or_answers: bool
    escape: Callable[[str], str]
    escape_special: Callable[[str], str]


class Marks:
    """Texts that stand for what the policy wrote, and occur nowhere else in a conversation."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        there = "".join(json.dumps(dict(entry.message), default=str) for entry in entries)
        salt = 0
        while (start := f"Zq{salt}q") in there:
            salt += 1
        self._start = start

    def hide(self, at: int, written: Written) -> Written:
        """What the message at a place says, with marks for its texts and arguments."""
        calls = tuple(
            ToolCall(call.name, {ARGUMENT: f"{self._start}{at}a{k}Z"}, call.id)
            for k, call in enumerate(written.calls)
        )
        thinking = f"{self._start}{at}tZ" if written.thinking else written.thinking
        content = f"{self._start}{at}cZ" if written.content.strip() or not calls else ""
        return Written(content, thinking, calls)


def texts_of(hidden: Written) -> list[str]:
    """The marks of a hidden message."""
    arguments = [str(call.arguments[ARGUMENT]) for call in hidden.calls]
    return [text for text in (hidden.thinking, hidden.content, *arguments) if text]


def spell(
    entries: Sequence[Entry], spelling: Spelling, hidden: Mapping[int, Written] | None = None
) -> list[dict[str, Any]]:
    """The messages for the template; `hidden` takes the place of what the policy wrote there.

    Calls without an id get one, in order, and so do the messages that answer them: some templates
    insist.
    """
    messages, counted = [], 0
    open_ids: Iterator[tuple[str, ToolCall]] = iter(())
    for at, entry in enumerate(entries):
        message = dict(entry.message)
        if entry.written is not None:
            written = (hidden or {}).get(at, entry.written)
            ids = [call.id or f"call{counted + k:05d}" for k, call in enumerate(written.calls)]
            counted += len(ids)
            message = _assistant(written, ids, spelling)
            open_ids = iter(zip(ids, written.calls, strict=True))
        elif entry.observed:
            escape = spelling.escape_special if entry.explains else spelling.escape
            message["content"] = escape(message["content"])
            if message["role"] == "tool":
                _name_answer(message, open_ids)
        messages.append(message)
    return messages


def _name_answer(message: dict[str, Any], open_ids: Iterator[tuple[str, ToolCall]]) -> None:
    """Fills in which call a tool's message answers: the next one."""
    id, call = next(open_ids, ("", ToolCall(str(message.get("name", "")), {})))
    message.setdefault("name", call.name)
    message["tool_call_id"] = message.get("tool_call_id") or id


def _assistant(written: Written, ids: Sequence[str], spelling: Spelling) -> dict[str, Any]:
    content, thinking = written.content, written.thinking
    if written.calls and spelling.thinks_or_answers:
        thinking, content = "\n".join(filter(None, (thinking, content))), ""
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if thinking is not None:
        message[spelling.thinking] = thinking
    if written.calls:
        message["tool_calls"] = [
            {"type": "function", "id": id, "function": _function(call, spelling)}
            for id, call in zip(ids, written.calls, strict=True)
        ]
    return message


def _function(call: ToolCall, spelling: Spelling) -> dict[str, Any]:
    arguments: Any = dict(call.arguments)
    if spelling.text_arguments:
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {"name": call.name, "arguments": arguments}
