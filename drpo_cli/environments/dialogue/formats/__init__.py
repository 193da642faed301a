"""The forms in which models write thinking and calls of tools, and how to read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drpo_cli.environments.dialogue.formats import (
    coder,
    deepseek,
    gemma4,
    glm,
    harmony,
    hermes,
    llama,
    mistral,
    pythonic,
)
from drpo_cli.environments.dialogue.formats.written import CallError, Written

THINKING = (
    *(("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<thought>", "</thought>")),
    ("<|channel>thought", "<channel|>"),
)
"""Tags around thinking, as templates know them."""


@dataclass(frozen=True)
class Form:
    """How calls are written: a name for messages, the form in words for the model, a reader."""

    name: str
    words: str
    read: Callable[[str, Sequence[Mapping[str, Any]]], Written]


FORMS = (
    Form("Qwen3-Coder", coder.FORM, coder.read),
    Form("Hermes", hermes.FORM, hermes.read),
    Form("GLM 4.5", glm.FORM, glm.read),
    Form("Mistral", mistral.LIST_FORM, mistral.read_list),
    Form("Mistral (names)", mistral.NAME_FORM, mistral.read_names),
    Form("DeepSeek V3", deepseek.FENCED_FORM, deepseek.read),
    Form("DeepSeek V3.1", deepseek.FORM, deepseek.read),
    Form("Gemma 4", gemma4.FORM, gemma4.read),
    Form("LFM2", pythonic.MARKED_FORM, pythonic.read_marked),
    Form("Llama 4", pythonic.FORM, pythonic.read),
    Form("Llama 3", llama.FORM, llama.read),
)
HARMONY = Form("harmony", harmony.FORM, lambda text, tools: harmony.read(text))


@dataclass(frozen=True)
class Reader:
    """Reads the responses of one chat template.

    form      of calls; None if the model has no tools
    thinking  the tags around it; None if the template knows of none
    harmony   whether responses have channels
    tools     the schemas, of which one form needs the types
    several   whether a response may have more than one call
    """

    form: Form | None = None
    thinking: tuple[str, str] | None = None
    harmony: bool = False
    tools: tuple[Mapping[str, Any], ...] = ()
    several: bool = True

    def read(self, text: str, opened: bool = False) -> Written:
        """What a response says. `opened` says that the prompt ends within its thinking."""
        if self.harmony:
            return self._read_channels(text)
        thinking, rest = _split(text, self.thinking, opened)
        if self.form is None:
            return Written(rest, thinking)
        try:
            written = self.form.read(rest, self.tools)
            self._require_few(written)
        except CallError as error:
            return Written(rest, thinking, problem=explain(error, self.form))
        return written._replace(thinking=thinking)

    def opens(self, prompt: str) -> bool:
        """Whether a prompt ends with the beginning of thinking."""
        return self.thinking is not None and prompt.rstrip().endswith(self.thinking[0])

    def _read_channels(self, text: str) -> Written:
        try:
            written = harmony.read(text)
            self._require_few(written)
        except CallError as error:
            thinking = harmony.thinking_of(text)
            return Written(text, thinking, problem=explain(error, self.form))
        if written.calls and self.form is None:
            return written._replace(calls=(), content=text)
        return written

    def _require_few(self, written: Written) -> None:
        if len(written.calls) > 1 and not self.several:
            raise CallError("only one tool can be called at a time")


def find_thinking(template: str) -> tuple[str, str] | None:
    """The tags around thinking that a template knows of."""
    return next((tags for tags in THINKING if tags[1] in template), None)


def _split(text: str, tags: tuple[str, str] | None, opened: bool) -> tuple[str | None, str]:
    """Thinking and the rest. Text before the end of thinking is thinking, also without a begin."""
    if tags is None:
        return None, text
    begin, end = tags
    began = text.lstrip().startswith(begin)
    if not (began or opened or end in text):
        return None, text
    inside = text.partition(begin)[2] if began else text
    thinking, _, rest = inside.partition(end)
    return thinking.strip(), rest.lstrip("\n")


def explain(error: object, form: Form | None) -> str:
    """Why a call is not valid and how to write it, for the model."""
    form = form or HARMONY
    return f"The call of a tool is not valid: {error}. Write it as:\n{form.words}"
