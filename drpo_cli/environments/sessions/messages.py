"""What the trainer asks of an episode, and what it gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from drpo_cli.calls.failures import Failure, is_usable
from drpo_cli.types import Action, Message, Row

DEEPEST = 32
"""How deep the values of an answer may be nested."""


class Open(NamedTuple):
    """Begins an episode: `start` gets the row and `random.Random(seed)`."""

    row: Row
    seed: int


class Act(NamedTuple):
    """Gives the environment, or its tools, what the policy did."""

    action: Action


class Answer(NamedTuple):
    """What an environment answered, or why it did not.

    messages  what the policy sees next; of a `start`, the whole opening
    reward    for the action
    done      whether the episode has ended by itself
    info      plain values, as JSON has them
    seconds   of the call, in its process
    counts    for the metrics: `printed_bytes`, `tool_calls`, `tool_errors`, `parse_errors`
    errors    what went wrong in each call of a tool, with its place; empty text where nothing did
    """

    messages: tuple[Message, ...] = ()
    reward: float = 0.0
    done: bool = False
    info: Mapping[str, Any] = {}
    seconds: float = 0.0
    failure: Failure | None = None
    counts: Mapping[str, int | float] = {}
    errors: tuple[str, ...] = ()

    def is_valid(self, expected: int) -> bool:
        """Whether it holds nothing but plain values in usable size; the process may be lying."""
        numbers = (self.reward, self.seconds, *self.counts.values())
        return (
            all(map(is_usable, numbers))
            and all(map(_is_message, self.messages))
            and _is_plain(self.info)
            and all(type(error) is str for error in self.errors)
        )


def _is_message(message: Message) -> bool:
    text = type(message.get("role")) is str and type(message.get("content")) is str
    return text and _is_plain(message)


def _is_plain(value: Any, deepest: int = DEEPEST + 2) -> bool:
    """Whether it is what JSON can hold, and not nested deeper than that."""
    if isinstance(value, dict | list) and deepest == 0:
        return False
    if isinstance(value, dict):
        return all(type(k) is str and _is_plain(one, deepest - 1) for k, one in value.items())
    if isinstance(value, list):
        return all(_is_plain(one, deepest - 1) for one in value)
    if type(value) is float:
        return value - value == 0  # neither infinite nor NaN
    return value is None or type(value) in (str, int, bool)
