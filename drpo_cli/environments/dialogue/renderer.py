"""Renders conversations with one chat template, after trying out how it writes calls of tools."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

from drpo_cli.chat_templates import naming, render
from drpo_cli.environments.dialogue.entries import Entry, Spelling, spell, texts_of
from drpo_cli.environments.dialogue.formats import FORMS, HARMONY, Reader, find_thinking
from drpo_cli.environments.dialogue.formats.written import Written
from drpo_cli.environments.dialogue.tokens import Escape, Tokens
from drpo_cli.errors import UserError
from drpo_cli.types import ChatTemplate, Message, ToolCall

THINKING_KEYS = ("reasoning_content", "reasoning", "thinking")
JOIN = "\n\n"
"""Text between messages of the user that a template does not take one after the other."""
EMPTY = "…"
"""In place of an empty response, which some templates refuse."""
TRIED = (Entry({"role": "user", "content": "1"}),)
Tools = tuple[Mapping[str, Any], ...]


class Renderer:
    """Renders conversations with one template and the same tools.

    reader  reads what the policy writes with this template
    """

    def __init__(self, tokens: Tokens, template: ChatTemplate, tools: Tools) -> None:
        self._tokens, self._template, self._tools = tokens, template, tools
        harmony = "<|channel|>" in template.text and "<|message|>" in template.text
        self.reader = Reader(None, find_thinking(template.text), harmony, tools)
        self.spelling = Spelling(
            thinking=_thinking_key(template.text),
            text_arguments=False,
            thinks_or_answers=harmony,
            escape=Escape(tokens, tokens.controls(template.text)),
            escape_special=Escape(tokens, tokens.controls("")),
        )
        if tools:
            self._require_tools()
            self._find_form()

    def with_options(self, options: Mapping[str, Any]) -> Renderer:
        """The same with other variables of the template."""
        other = copy(self)
        other._template = ChatTemplate(self._template.text, options)
        return other

    def refusal(self, entries: Sequence[Entry]) -> str | None:
        """Why the template refuses what the policy wrote last; None if it takes it."""
        try:
            self.render(entries)
        except UserError as error:
            return str(error.__cause__)
        return None

    def render(self, entries: Sequence[Entry], hidden: Mapping[int, Written] | None = None) -> str:
        """The text of a conversation, up to where the policy continues. Raises UserError."""
        messages = spell(entries, self.spelling, hidden)
        problem = None
        for attempt in _attempts(messages):
            try:
                return self._render(attempt)
            except UserError as error:
                problem = problem or error
        assert problem is not None
        raise problem

    def _render(self, messages: Sequence[Message], with_tools: bool = True) -> str:
        roles = ", ".join(message["role"] for message in messages)
        where = f"environment: the model's chat template refuses the messages ({roles})"
        with naming(where):
            tools = self._tools if with_tools else ()
            return render(self._tokens.tokenizer, messages, self._template, tools)

    def _require_tools(self) -> None:
        """Raises UserError for a template that does not print tools, or not these."""
        messages = spell(TRIED, self.spelling)
        bare = self._render(messages, with_tools=False)
        try:
            printed = self._render(messages)
        except UserError as error:
            raise UserError(
                f"environment.tools: the model's chat template cannot print the tools: {error}",
                "simplify the signatures of the tools, or choose another template with "
                "chat_template in the data source",
            ) from error
        if printed == bare:
            raise UserError(
                "environment.tools: the model's chat template does not print tools",
                "use a model that was trained to call tools (model.path), name a template that "
                "prints them with chat_template in the data source, or remove the tools",
            )

    def _find_form(self) -> None:
        """Finds the form of calls by having the template write one, and reading it."""
        for as_text in (False, True):
            self.spelling = replace(self.spelling, text_arguments=as_text)
            for form in (HARMONY,) if self.reader.harmony else FORMS:
                self.reader = replace(self.reader, form=form)
                if self._reads(1):
                    self.reader = replace(self.reader, several=self._reads(2))
                    return
        raise UserError(
            "environment.tools: the model's chat template writes calls of tools in a form that "
            "drpo cannot read",
            f"the forms are {', '.join(form.name for form in (*FORMS, HARMONY))}; choose another "
            "template with chat_template in the data source, or remove the tools",
        )

    def _reads(self, calls: int) -> bool:
        """Whether so many calls in one message are read as they were written."""
        function = self._tools[0].get("function", self._tools[0])
        made = tuple(ToolCall(function["name"], {"x": f"Zqq{k}Z"}) for k in range(calls))
        try:
            before = self.render(TRIED)
            after = self.render((*TRIED, Entry({}, Written("", None, made))))
        except UserError:
            return False
        pairs = enumerate(zip(before, after, strict=False))
        start = next((at for at, (one, other) in pairs if one != other), len(before))
        if (last := after.rfind(texts_of(Written("", None, made))[-1])) < 0:
            return False
        ends = [control.at for control in self._tokens.find_controls(after, last)]
        for end in (*ends, len(after)):
            written = self.reader.read(after[start:end])
            if [call._replace(id="") for call in written.calls] == list(made):
                return True
        return False


def _thinking_key(template: str) -> str:
    """The key under which a template looks for the thinking of a message."""
    for key in THINKING_KEYS:
        if re.search(rf"\.{key}\b|\[['\"]{key}['\"]\]|get\(['\"]{key}['\"]", template):
            return key
    return THINKING_KEYS[0]


def _attempts(messages: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The messages, then what to try if the template refuses them."""
    yield messages
    merged: list[dict[str, Any]] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"] == "user":
            joined = merged[-1]["content"] + JOIN + message["content"]
            merged[-1] = {**merged[-1], "content": joined}
        else:
            merged.append(message)
    yield merged
    yield [
        {**message, "content": EMPTY}
        if message["role"] == "assistant" and not (message["content"] or "tool_calls" in message)
        else message
        for message in merged
    ]
