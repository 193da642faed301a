"""Responses of gpt-oss, in the form "harmony": messages to channels and to tools."""

from __future__ import annotations

import re

from drpo_cli.environments.dialogue.formats.values import named_call, read_json
from drpo_cli.environments.dialogue.formats.written import CallError, Written
from drpo_cli.types import ToolCall

FORM = "<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}<|call|>"
START, CHANNEL, MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
ENDS = re.compile(r"<\|(?:end|return|call)\|>")
RECIPIENT = re.compile(r"\bto=([^\s<]+)")
TOOLS = "functions."


def read(text: str) -> Written:
    """Thinking (channel "analysis"), text of the other channels, calls. Raises CallError."""
    if MESSAGE not in text and CHANNEL not in text:
        return Written(text)
    thinking, content, calls = [], [], []
    for part in text.split(START):
        header, mark, body = part.partition(MESSAGE)
        body = ENDS.sub("", body)
        recipient = RECIPIENT.search(header)
        if not mark:
            if recipient:
                raise CallError(f"{MESSAGE} is missing between the header of a call and its JSON")
            continue
        if recipient:
            calls.append(_call(recipient[1], body))
        elif f"{CHANNEL}analysis" in header:
            thinking.append(body)
        else:
            content.append(body)
    said = "\n".join(thinking) if thinking else None
    return Written("\n".join(content), said, tuple(calls))


def thinking_of(text: str) -> str | None:
    """The thinking in a response of which a call is not valid."""
    parts = [part.partition(MESSAGE) for part in text.split(START)]
    thinking = [ENDS.sub("", body) for header, _, body in parts if f"{CHANNEL}analysis" in header]
    return "\n".join(thinking) if thinking else None


def _call(recipient: str, body: str) -> ToolCall:
    if not recipient.startswith(TOOLS):
        raise CallError(f"there is no tool {recipient!r}; tools begin with {TOOLS!r}")
    name = recipient.removeprefix(TOOLS)
    return named_call(name, read_json(body.strip(), f"the message to {recipient}"))
