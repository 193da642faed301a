"""Makes examples for supervised learning: a row's prompt, and its answer as the response."""

from __future__ import annotations

from collections.abc import Set
from functools import cache
from typing import Any

from drpo_cli.chat_templates import naming, render
from drpo_cli.data.pipeline.prompts import Prompts, Unfit, _Rendered
from drpo_cli.data.pipeline.rows import Row
from drpo_cli.errors import UserError
from drpo_cli.types import ChatTemplate, Message, Prompt

PROBE: tuple[Message, ...] = (
    {"role": "user", "content": "question"},
    {"role": "assistant", "content": "PROBE"},
)
"""A chat that shows with which token a template ends a message of the assistant."""


class AnsweredPrompts(Prompts):
    """Makes prompts of rows with an answer, which fits into the context after them.

    `ends` are the tokens that end a response, `context` the longest sequence, `vocabulary` the rows
    of the model's embedding.
    """

    def __init__(self, tokenizer: Any, ends: Set[int], context: int, vocabulary: int) -> None:
        super().__init__(tokenizer, context - 1, vocabulary)
        self._ends = ends
        self._context = context
        self._end_of = cache(self._find_end)

    def response_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """The tokens of the answer, and the one that ends it: what the policy would sample.

        In a chat, the end is that of the template's messages of the assistant; else the tokenizer's
        end of sequence.
        """
        assert prompt.answer is not None
        with naming(f"data {prompt.id}: the tokenizer cannot read the answer"):
            ids = self._tokenizer(prompt.answer, add_special_tokens=False).input_ids
        text = None if prompt.template is None else prompt.template.text
        return (*ids, self._end_of(text))

    def _finish(self, row: Row, rendered: _Rendered, ids: list[int]) -> Prompt | Unfit:
        made = super()._finish(row, rendered, ids)
        if not isinstance(made, Prompt):
            return made
        if made.answer is None:
            raise UserError(
                f"data {row.id}: the row has no answer, and [sft] learns answers",
                "name the column with fields.answer, remove the row, or give the warm-up rows of "
                "its own in [[sft.data]]",
            )
        response = self.response_ids(made)
        self._require_known(response, row.id)
        if len(ids) + len(response) <= self._context:
            return made
        if row.config.too_long == "skip":
            return "too_long"
        raise UserError(
            f"data {row.id}: prompt and answer have {len(ids) + len(response):,} tokens, and the "
            f"longest sequence has {self._context:,}",
            'raise rollout.context_length, or set too_long = "skip" in this source',
        )

    def _find_end(self, template: str | None) -> int:
        usual = self._tokenizer.eos_token_id
        if template is not None:
            text = _render_probe(self._tokenizer, template)
            after = text.rpartition("PROBE")[2]
            read = self._tokenizer(after, add_special_tokens=False).input_ids
            if (end := next((one for one in read if one in self._ends), None)) is not None:
                return int(end)
        return int(min(self._ends) if usual not in self._ends else usual)


def _render_probe(tokenizer: Any, template: str) -> str:
    """The probe as the template writes it; empty where it refuses that."""
    try:
        with naming("chat template"):
            return render(tokenizer, PROBE, ChatTemplate(template))
    except UserError:
        return ""
