"""Begins dialogues: one per episode, with the chat template that rendered its prompt."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from drpo_cli.environments.dialogue.dialogue import Dialogue, Start
from drpo_cli.environments.dialogue.entries import Entry
from drpo_cli.environments.dialogue.renderer import Renderer
from drpo_cli.environments.dialogue.tokens import Escape, Tokens, whole
from drpo_cli.errors import UserError
from drpo_cli.types import ChatTemplate, Message, Prompt

FOR_TOOLS = "tool_use"
"""The name of a tokenizer's template that prints tools, beside the default one."""


class Chats:
    """The dialogues of a run: `ends` are the ids that end a response of the engine."""

    def __init__(self, tokenizer: Any, ends: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._tokens = Tokens(tokenizer, ends)
        self._escape = Escape(self._tokens, self._tokens.controls(""))
        self._renderers: dict[tuple[str, str], Renderer] = {}

    def begin(
        self,
        prompt: Prompt,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        history: Literal["template", "keep"] = "template",
    ) -> Dialogue:
        """The dialogue of an episode that starts with `messages`, after the prompt's opening ones.

        Raises UserError for messages or tools that the model's chat template cannot print, and for
        any but one text if the prompt is plain text.
        """
        own = [{**message, "content": whole(message["content"])} for message in messages]
        given = (*prompt.messages[: prompt.opening], *own)
        if prompt.template is None:
            renderer, text = None, _plain_text(given, tools)
        else:
            if given[-1]["role"] == "assistant":
                raise UserError(
                    "environment: `start` ends with a message of the assistant",
                    "end with one of the user: the policy answers it",
                )
            renderer = self._renderer(prompt.template, tuple(tools))
            text = renderer.render([Entry(message) for message in given])
        # as the prompt was encoded: with the tokenizer's special tokens around it, or without
        special = tuple(self._tokens.encode(prompt.text)) != prompt.token_ids
        same = text == prompt.text
        ids = prompt.token_ids if same else tuple(self._tokens.encode(text, special))
        start = Start(text, ids, special, history == "keep", self._escape)
        return Dialogue(self._tokens, renderer, given, start)

    def _renderer(self, template: ChatTemplate, tools: tuple[Mapping[str, Any], ...]) -> Renderer:
        text, named = template.text, self._tokenizer.chat_template
        if tools and isinstance(named, dict) and text == named.get("default"):
            text = named.get(FOR_TOOLS, text)
        key = (text, json.dumps(tools, sort_keys=True))
        if key not in self._renderers:
            template = ChatTemplate(text, template.options)
            self._renderers[key] = Renderer(self._tokens, template, tools)
        return self._renderers[key].with_options(template.options)


def _plain_text(messages: Sequence[Message], tools: Sequence[Any]) -> str:
    if tools or len(messages) != 1 or messages[0]["role"] != "user":
        what = "has tools" if tools else "starts with a chat"
        raise UserError(
            f"environment: it {what}, and the prompts of this data source are plain text",
            "set chat = true in the data source (the model needs a chat template), or "
            + ("remove the tools" if tools else "return one text from `start`"),
        )
    text: str = messages[0]["content"]
    return text
