"""Renders chat messages with the tokenizer's chat template, another one of its own, or a file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from drpo_cli.chat_templates import naming, render
from drpo_cli.data.pipeline.rows import Row
from drpo_cli.data.pipeline.templates import evaluate
from drpo_cli.errors import UserError
from drpo_cli.settings import RESERVED, SourceSettings
from drpo_cli.types import ChatTemplate, Message


class Chats:
    """The chat templates of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def render(self, messages: Sequence[Message], row: Row) -> tuple[str, ChatTemplate]:
        """The text of the messages, and the template that made it, with its variables.

        Raises UserError, naming the row, where it cannot be made.
        """
        config = row.config
        continues = config.continue_final_message and messages[-1]["role"] == "assistant"
        text = self._find_template(config, row.id)
        _check_options(text, config, row.id)
        options = {
            name: _fill(value, row.problem.metadata, f"{row.id}, template_options.{name}")
            for name, value in config.template_options.items()
        }
        template = ChatTemplate(text, options)
        roles = ", ".join(turn["role"] for turn in messages)
        with naming(f"data {row.id}: the tokenizer's chat template refuses the messages ({roles})"):
            rendered = render(self._tokenizer, messages, template, continues=continues)
        return rendered, template

    def _find_template(self, config: SourceSettings, id: str) -> str:
        """The text of the template that the source asks for."""
        own, name = self._tokenizer.chat_template, config.chat_template
        if name is not None and is_file(name):
            return _read(name)
        if own is None:
            raise UserError(
                f"data {id}: a chat prompt needs a chat template, and the model's tokenizer "
                "has none",
                "use an instruction-tuned model, name a file with chat_template, or use plain text "
                "(string prompts, chat = false)",
            )
        if isinstance(own, str) and name is None:
            return own
        named = own if isinstance(own, dict) else {}
        found: str | None = named.get("default" if name is None else name)
        if found is None:
            without = "has several chat templates, and none of them is the default"
            what = without if name is None else f"has no chat template {name!r}"
            raise UserError(
                f"data {id}: the model's tokenizer {what}",
                f"choose one with chat_template: {', '.join(sorted(named))}, or a file that ends "
                "with .jinja"
                if named
                else "it has only one, without a name: remove chat_template, or name a file that "
                "ends with .jinja",
            )
        return found


def is_file(name: str) -> bool:
    """Whether `chat_template` names a file, and not a template of the tokenizer."""
    return "/" in name or name.endswith(".jinja")


@lru_cache
def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"chat_template {path}: cannot be read: {error}") from error


def _fill(value: Any, columns: Any, where: str) -> Any:
    """An option with its texts filled in as templates."""
    if isinstance(value, str):
        return evaluate(value, columns, where)
    if isinstance(value, dict):
        return {name: _fill(inner, columns, where) for name, inner in value.items()}
    return [_fill(inner, columns, where) for inner in value] if isinstance(value, list) else value


def _check_options(template: str, config: SourceSettings, id: str) -> None:
    used = _find_names(template)
    unknown = [] if used is None else sorted(config.template_options.keys() - used)
    if unknown:
        known = (used or frozenset()) - RESERVED - {"raise_exception", "strftime_now"}
        raise UserError(
            f"data {id}: the chat template never uses {', '.join(map(repr, unknown))} of "
            "template_options",
            f"remove it; beside the messages, it uses {', '.join(sorted(known)) or 'nothing'}",
        )


@lru_cache
def _find_names(template: str) -> frozenset[str] | None:
    """The variables of a chat template; None for one that has syntax of its own."""
    from jinja2 import TemplateError, meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    reader = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        names = meta.find_undeclared_variables(reader.parse(template))
    except (TemplateError, RecursionError):
        return None
    return frozenset(names - reader.globals.keys())
