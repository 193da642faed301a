"""What `start` and `step` return, as plain messages and values; or what is wrong with it."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from drpo_cli.calls.failures import LARGEST, Failure, Kind, as_python, is_usable, short
from drpo_cli.environments.sessions.messages import DEEPEST, Answer
from drpo_cli.types import Message, Step

MOST_TEXT = 1 << 20
"""Most characters that one call may show the policy: several times the longest context."""
MOST_MESSAGES = 1 << 10
MOST_INFO = 1 << 16
"""Most characters of a step's info, roughly as JSON: it is kept with each episode."""
LARGEST_INTEGER = 1 << 63


class RefusedError(Exception):
    """The user's code returned what it should not."""

    def __init__(self, kind: Kind, detail: str) -> None:
        super().__init__(detail)
        self.failure = Failure(kind, detail)


def opening(value: Any, where: str) -> Answer:
    """The answer to `start`, from what it returned; `where` is its file and line."""
    _refuse_awaitable(value, f"{where}: `start`")
    messages = _messages(value, f"{where}: `start`")
    if not messages:
        raise RefusedError(
            "wrong_type", f"{where}: `start` returned no message; return text, or messages"
        )
    return Answer(messages)


def answer(value: Any, where: str) -> Answer:
    """The answer to an action, from what `step` returned; `where` is its file and line."""
    who = f"{where}: `step`"
    _refuse_awaitable(value, who)
    if not isinstance(value, Step):
        raise RefusedError(
            "wrong_type", f"{who} returned {_shown(value)}; return Step(observation, reward, done)"
        )
    if not isinstance(value.done, bool) and type(value.done).__name__ not in ("bool_", "bool"):
        raise RefusedError(
            "wrong_type", f"{who} returned done = {_shown(value.done)}; give True or False"
        )
    done = bool(value.done)
    messages = _messages(value.observation, who)
    if not messages and not done:
        raise RefusedError(
            "wrong_type",
            f"{who} returned no observation, but the episode goes on; return one, or done = True",
        )
    reward = _reward(value.reward, who)
    return Answer(messages, reward, done, _info(value.info, who))


def _refuse_awaitable(value: Any, who: str) -> None:
    if not inspect.isawaitable(value):
        return
    if inspect.iscoroutine(value):
        value.close()  # or Python warns that nobody has awaited it
    raise RefusedError(
        "wrong_type", f"{who} returned what has to be awaited; write `async def`, or await it there"
    )


def _messages(value: Any, who: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        text = _text(value, f"{who}'s observation")
        found = [{"role": "user", "content": text}] if text else []
    elif isinstance(value, Mapping):
        found = [_message(value, who)]
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        if len(value) > MOST_MESSAGES:
            what = f"{who} returned {len(value)} messages as observation"
            raise RefusedError("too_large", f"{what}; at most {MOST_MESSAGES} are possible")
        found = [_message(one, who) for one in value]
    else:
        raise RefusedError(
            "wrong_type",
            f"{who} returned {_shown(value)} as observation; return text, or messages "
            '({"role": "user", "content": "…"})',
        )
    shown = sum(len(one["content"]) for one in found)
    beside = sum(len(repr({**one, "content": ""})) for one in found)
    for size, where in ((shown, ""), (beside, " beside its text")):
        if size > MOST_TEXT:
            detail = f"{who} returned an observation of {size} characters{where}"
            raise RefusedError("too_large", f"{detail}; cut it to {MOST_TEXT} or fewer")
    return tuple(found)


def _message(value: Any, who: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise RefusedError(
            "wrong_type",
            f"{who} returned {_shown(value)} as a message; write "
            '{"role": "user", "content": "…"}',
        )
    message = plain(value, f"{who}'s message")
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            raise RefusedError(
                "wrong_type",
                f"{who} returned a message whose {key} is {_shown(message.get(key))}; give text",
            )
    return dict(message)


def _reward(value: Any, who: str) -> float:
    number = as_python(value)
    if not isinstance(number, numbers.Real):
        raise RefusedError(
            "wrong_type", f"{who} returned reward = {_shown(value)}; give a finite number"
        )
    try:
        reward = float(number)
    except OverflowError:
        reward = float("inf")
    if not is_usable(reward):
        raise RefusedError(
            "not_finite",
            f"{who} returned reward = {reward}; give a finite number, up to {LARGEST:g}",
        )
    return reward


def _info(value: Any, who: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise RefusedError(
            "wrong_type", f"{who} returned info = {_shown(value)}; give a dict of plain values"
        )
    info = dict(plain(value, f"{who}'s info"))
    size = len(repr(info))
    if size > MOST_INFO:
        raise RefusedError(
            "too_large", f"{who} returned info of {size} characters; keep it below {MOST_INFO}"
        )
    return info


def plain(value: Any, who: str, depth: int = 0) -> Any:
    """The value as exact plain types, as JSON has them; raises RefusedError for another."""
    if depth > DEEPEST:
        raise RefusedError("wrong_type", f"{who} is nested deeper than {DEEPEST}")
    value = as_python(value)
    if isinstance(value, str):
        return _text(value, who)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        number = int.__index__(value)
        if -LARGEST_INTEGER <= number < LARGEST_INTEGER:
            return number
        raise RefusedError("wrong_type", f"{who} has an integer beyond 64 bits; write it as text")
    if isinstance(value, float):
        real = float.__float__(value)
        if real - real == 0:
            return real
        raise RefusedError("not_finite", f"{who} has {real}, which JSON cannot hold; write None")
    if isinstance(value, Mapping):
        return {
            _key(key, who): plain(one, f"{who}[{short(repr(key), 40)}]", depth + 1)
            for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [plain(one, who, depth + 1) for one in value]
    raise RefusedError(
        "wrong_type",
        f"{who} is {_shown(value)}; give text, numbers, True, False, None, lists and dicts",
    )


def _key(key: Any, who: str) -> str:
    if isinstance(key, str):
        return _text(key, who)
    raise RefusedError("wrong_type", f"{who} has the key {_shown(key)}; keys must be text")


def _text(value: str, who: str) -> str:
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RefusedError(
            "wrong_type",
            f"{who} has half a surrogate pair, which is not text: {_shown(text)}; "
            'decode with errors="replace"',
        ) from None
    return text


def _shown(value: Any) -> str:
    return f"{short(repr(value))} ({type(value).__name__})"
