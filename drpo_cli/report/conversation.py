"""The conversation of an episode as blocks to show: one per message, in the page and the view."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drpo_cli.report.plain import format_number, shorten
from drpo_cli.runs.metrics import SampleRecord, SampleTurn

SHOWN = 8
"""Blocks shown of the beginning of a conversation, and of its end; the same for parts of a text."""

_THINKING = re.compile(r"\s*<think>(.*?)(?:</think>|\Z)\s*", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A message.

    own       whether the policy sampled it
    role      who said it, and the name of a tool
    note      of the policy's: its turn, reward and times, and what was wrong with a call
    text      what it says, without thinking and calls
    thinking  of the policy's
    calls     its calls of tools, `name(arguments)`
    wrong     whether a call of the policy could not be parsed
    """

    own: bool
    role: str
    note: str = ""
    text: str = ""
    thinking: str = ""
    calls: Sequence[str] = ()
    wrong: bool = False


@dataclass(frozen=True)
class Part:
    """A stretch of text; `own` if the policy sampled it."""

    own: bool
    text: str


@dataclass(frozen=True)
class Conversation:
    """An episode, its long texts shortened.

    summary   turns, how it ended, and how long its environment took
    failure   why its environment failed; empty if it did not
    rows      its rows as the model saw them, where the record has their text
    """

    summary: str
    failure: str
    blocks: Sequence[Block]
    rows: Sequence[Sequence[Part]]

    @property
    def texts(self) -> Iterator[str]:
        """Every text in it, to measure its size."""
        for block in self.blocks:
            yield from (block.role, block.note, block.text, block.thinking, *block.calls)
        yield from (part.text for row in self.rows for part in row)


def read_conversation(record: SampleRecord) -> Conversation | None:
    """The conversation of a sample; None of a response without an environment."""
    if "environment" not in record:
        return None
    return Conversation(
        summary=summarize(record),
        failure=_describe_failure(record),
        blocks=_shorten_middle(_blocks(record), _left_out),
        rows=[_read_parts(row) for row in record.get("rows", []) if "parts" in row],
    )


def summarize(record: SampleRecord) -> str:
    """`4 turns, max_turns`, and the seconds of sampling and of answers where there are any."""
    turns = record.get("turns", [])
    parts = [f"{len(turns)} turn{'s' if len(turns) != 1 else ''}", record.get("end") or ""]
    for key, what in (("sampling_s", "sampling"), ("answer_s", "waiting for answers")):
        seconds = sum(_number(turn.get(key)) for turn in turns)
        parts.append(f"{seconds:.1f} s {what}" if seconds >= 0.05 else "")
    rows = len(record.get("rows", []))
    parts.append(f"{rows} rows" if rows > 1 else "")
    return ", ".join(part for part in parts if part)


def as_text(record: SampleRecord) -> str | None:
    """The conversation as lines `role: text`, in front of them how it ended; shortened.

    None of a response without an environment.
    """
    conversation = read_conversation(record)
    if conversation is None:
        return None
    lines = [f"[{conversation.summary}]"]
    lines += [conversation.failure] if conversation.failure else []
    return "\n".join([*lines, *map(_as_line, conversation.blocks)])


def describe_messages(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Messages of an episode as `role: text`, each shortened, without those in the middle."""
    blocks = [_block(message, None) for message in messages]
    yield from map(_as_line, _shorten_middle(blocks, _left_out))


def _as_line(block: Block) -> str:
    said = " ".join(part for part in (block.text.strip(), *block.calls) if part)
    return f"{block.role}: {said}" if block.role else said


def _blocks(record: SampleRecord) -> list[Block]:
    """Every message; the last messages of the assistant are the policy's turns."""
    messages, turns = record.get("messages", []), record.get("turns", [])
    assistant = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
    own = dict(zip(assistant[len(assistant) - len(turns) :], enumerate(turns, 1), strict=False))
    return [_block(message, own.get(i)) for i, message in enumerate(messages)]


def _block(message: Mapping[str, Any], turn: tuple[int, SampleTurn] | None) -> Block:
    role, name = str(message.get("role", "?")), message.get("name")
    text = _as_text(message.get("content"))
    thinking = _as_text(message.get("reasoning_content"))
    if turn is not None and not thinking and (found := _THINKING.match(text)):
        thinking, text = found[1].strip(), text[found.end() :]
    return Block(
        own=turn is not None,
        role=f"{role} {name}" if name else role,
        note=_note(*turn) if turn else "",
        text=shorten(text),
        thinking=shorten(thinking),
        calls=[shorten(call) for call in _calls(message.get("tool_calls"))],
        wrong=turn is not None and bool(turn[1].get("problem")),
    )


def _note(number: int, turn: SampleTurn) -> str:
    parts = [f"turn {number}"]
    if _number(turn.get("reward")):
        parts.append(f"reward {format_number(turn.get('reward'))}")
    for key, what in (("sampling_s", "sampled"), ("answer_s", "answered")):
        seconds = _number(turn.get(key))
        parts.append(f"{what} in {seconds:.2f} s" if seconds else "")
    problem = turn.get("problem")
    parts.append(f"call not valid: {shorten(problem)}" if problem else "")
    return ", ".join(part for part in parts if part)


def _calls(calls: Any) -> Iterator[str]:
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function", call) if isinstance(call, Mapping) else call
        if isinstance(function, Mapping) and "name" in function:
            yield f"{function['name']}({_as_text(function.get('arguments'))})"
        else:
            yield _as_text(function)


def _read_parts(row: Mapping[str, Any]) -> list[Part]:
    parts = [Part(bool(part["sampled"]), shorten(part["text"])) for part in row["parts"]]
    return _shorten_middle(parts, lambda count: Part(False, f" […  {count} parts left out  …] "))


def _left_out(count: int) -> Block:
    return Block(own=False, role="", text=f"[…  {count} messages left out  …]")


def _shorten_middle(found: list[Any], instead: Any) -> list[Any]:
    left_out = len(found) - 2 * SHOWN
    return found if left_out <= 1 else [*found[:SHOWN], instead(left_out), *found[-SHOWN:]]


def _describe_failure(record: SampleRecord) -> str:
    failure = record.get("failure")
    return f"failed: {failure['kind']}: {shorten(failure['message'])}" if failure else ""


def _as_text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
