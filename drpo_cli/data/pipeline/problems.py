"""Checks one row, whatever source it is from: prompt, messages, answer, metadata."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from drpo_cli.data.pipeline.values import (
    UnfitError,
    as_text,
    is_missing,
    items,
    to_json,
    unpack,
    valid_text,
)
from drpo_cli.errors import UserError
from drpo_cli.settings import SourceSettings
from drpo_cli.types import Message, Problem

ROLES = ("system", "developer", "user", "assistant", "tool")
INSTRUCTIONS = ("system", "developer")
"""The roles that set the scene and ask nothing."""
TURN = '{"role": "user", "content": "…"}'
WRITE = "write one, or remove the row"


def clean(problem: Problem, config: SourceSettings, where: str) -> Problem:
    """The problem with a prompt and an answer of text, and metadata as JSON holds it.

    Raises UserError, naming `where`, for a prompt that is missing or empty and for values that are
    not valid text, cannot be text, or cannot be JSON.
    """
    replace = config.invalid_unicode == "replace"
    part = "the prompt"
    try:
        prompt = _clean_prompt(problem.prompt, config.continue_final_message, replace)
        part = "the answer"
        answer = as_text(problem.answer)
        answer = answer if answer is None else valid_text(answer, replace)
        part = "the metadata"
        metadata = {}
        if not isinstance(problem.metadata, Mapping):
            raise UnfitError(f"is a {type(problem.metadata).__name__}", "make it a dict")
        for name, value in items(problem.metadata, replace):
            part = f"the column {name!r}"
            metadata[name] = to_json(value, replace)
            part = "the metadata"
    except UnfitError as error:
        raise UserError(f"{where}: {part} {error.what}", error.fix) from error
    return Problem(prompt, answer, metadata)


def _clean_prompt(value: Any, continues: bool, replace: bool) -> str | tuple[Message, ...]:
    value = unpack(value)
    if is_missing(value):
        raise UnfitError("is missing", WRITE)
    if isinstance(value, str):
        if not value.strip():
            raise UnfitError("is empty", WRITE)
        return valid_text(str.__str__(value), replace)
    if not isinstance(value, list | tuple):
        raise UnfitError(
            f"is neither a string nor a list of chat messages ({TURN}) but {str(value)[:80]}"
        )
    turns = [_clean_turn(turn, f"message {at}", replace) for at, turn in enumerate(value, 1)]
    _check_turns(turns, continues)
    return tuple(turns)


def _clean_turn(turn: Any, name: str, replace: bool) -> Message:
    if not isinstance(turn, Mapping):
        raise UnfitError(f"has {name}, which is a {type(turn).__name__}", f"write it as {TURN}")
    # A table has every key in every message: None where it does not apply
    made = {
        key: to_json(value, replace) for key, value in items(turn, replace) if value is not None
    }
    for key in ("role", "content"):
        if key not in made:
            there = ", ".join(made) or "nothing"
            raise UnfitError(f"has {name} without {key!r} (it has {there})", f"write it as {TURN}")
        if not isinstance(made[key], str):
            kind = type(made[key]).__name__
            raise UnfitError(f"has {name}, whose {key} is a {kind}", "make it text")
    if made["role"] not in ROLES:
        close = difflib.get_close_matches(made["role"].lower(), ROLES, n=1)
        raise UnfitError(
            f"has {name} of the unknown role {made['role']!r}",
            f"did you mean {close[0]!r}?" if close else f"the roles are {', '.join(ROLES)}",
        )
    return made


def _check_turns(turns: Sequence[Message], continues: bool) -> None:
    if all(turn["role"] in INSTRUCTIONS for turn in turns):
        what = f"has only {turns[0]['role']} messages, and asks nothing" if turns else "is empty"
        raise UnfitError(what, "add a user message, or remove the row")
    last, asked = turns[-1], [turn for turn in turns if turn["role"] == "user"]
    if last["role"] == "assistant" and not continues:
        raise UnfitError(
            "ends with a message of the assistant: the model would answer after it, and it may be "
            "the reference answer",
            "remove the message, or set continue_final_message = true in this source, for the "
            "model to continue it",
        )
    for turn in (*asked[-1:], *([last] if last["role"] == "assistant" else [])):
        if not turn["content"].strip():
            raise UnfitError(f"has an empty last {turn['role']} message", WRITE)
