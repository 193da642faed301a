"""Renders chat templates: always with the same date, and with errors that name their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from drpo_cli.errors import UserError
from drpo_cli.types import ChatTemplate, Message

TODAY = datetime(2025, 1, 1)
"""What a chat template gets that asks for today's date, with `strftime_now`.

With the real date, a run that is resumed after midnight would see other prompts than before.
"""


def fixed_date(template: object) -> dict[str, Any]:
    """The variables that give a template, or a dict of them, the same date on every day."""
    # Tokenizers with code of their own may not know it
    return {"strftime_now": TODAY.strftime} if "strftime_now" in str(template) else {}


def render(
    tokenizer: Any,
    messages: Sequence[Message],
    template: ChatTemplate,
    tools: Sequence[Mapping[str, Any]] = (),
    continues: bool = False,
) -> str:
    """The text of the messages, with what begins a message of the assistant at its end.

    `continues` leaves the last message open, for the model to continue it. Raises what the template
    raises: see `naming`.
    """
    options = dict(template.options)
    # Tokenizers with code of their own may not know these
    if template.text != tokenizer.chat_template:
        options["chat_template"] = template.text
    options |= fixed_date(template.text)
    if tools:
        options["tools"] = [dict(tool) for tool in tools]
    if continues:
        options["continue_final_message"] = True
    text: str = tokenizer.apply_chat_template(
        [dict(turn) for turn in messages],
        add_generation_prompt=not continues,
        tokenize=False,
        **options,
    )
    return text


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Turns what a template or a tokenizer raises into a UserError that begins with `where`.

    Both run on what users and models bring, so any exception may be of their making; the libraries
    in Rust panic with one that is not an Exception.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{where}: {str(error) or type(error).__name__}") from error
