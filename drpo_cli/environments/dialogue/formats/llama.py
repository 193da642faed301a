"""Calls as Llama 3 writes them: a response that is a JSON object, perhaps after a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from json import JSONDecodeError, JSONDecoder
from typing import Any

from drpo_cli.environments.dialogue.formats.values import make_call
from drpo_cli.environments.dialogue.formats.written import CallError, Written

FORM = '{"name": "…", "parameters": {…}}'
TAG = "<|python_tag|>"


def read(text: str, tools: Sequence[Mapping[str, Any]]) -> Written:
    """The calls, or the text if it has none. Raises CallError.

    The response is one object, or several with semicolons between them.
    """
    before, tag, after = text.partition(TAG)
    body = (after if tag else text).strip()
    if not tag and not (body.startswith("{") and '"name"' in body):
        return Written(text)
    calls, decoder = [], JSONDecoder()
    while body:
        try:
            value, end = decoder.raw_decode(body)
        except (JSONDecodeError, RecursionError) as error:
            raise CallError(f"the call cannot be read as JSON ({error})") from error
        calls.append(make_call(value, ("parameters", "arguments")))
        body = body[end:].lstrip()
        if body and not body.startswith(";"):
            raise CallError(f"there is text after the call: {body[:80]!r}")
        body = body[1:].lstrip()
    if not calls:
        raise CallError(f"there is nothing after {TAG}")
    return Written(before.strip() if tag else "", calls=tuple(calls))
