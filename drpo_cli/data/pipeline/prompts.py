"""From a row to the prompt the model sees: template, examples, chat, token ids, length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from drpo_cli.data.pipeline.rows import Row
from drpo_cli.errors import UserError
from drpo_cli.settings import SourceSettings
from drpo_cli.types import Message, Prompt

if TYPE_CHECKING:
    from jinja2 import Template

Unfit = Literal["min_prompt_tokens", "max_prompt_tokens", "too_long"]
"""Why a row is skipped: the option that says so."""
EXAMPLE_END = "\n\n"
"""What follows the answer of a plain-text example."""
NOT_SHOWN = "answer"
"""The column no template gets."""


class Prompts:
    """Makes prompts for one tokenizer.

    `max_tokens` is what the context leaves beside the longest response.
    """

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens

    def make(self, row: Row) -> Prompt | Unfit:
        """The row as the model sees it, or the option by which it is skipped.

        Raises UserError for a prompt that leaves no room for the response where its source does
        not skip those, that has no tokens, or that a template cannot render.
        """
        problem, config, id = row
        if config.chat or not isinstance(problem.prompt, str):
            text = self._chat_text(row)
            ids = list(self._tokenizer(text, add_special_tokens=False).input_ids)  # text has them
        else:
            if config.system is not None:
                raise UserError(f"data {id}: `system` needs a chat prompt; set chat = true")
            text = "".join(asked + answer + EXAMPLE_END for asked, answer in _examples(config, id))
            text += render(config.template, problem.prompt, problem.metadata, id)
            ids = self._plain_ids(text)
        if not ids:
            raise UserError(f"data {id}: the prompt is empty; give the row some text or remove it")
        unfit = self._unfit(len(ids), config, id)
        if unfit is not None:
            return unfit
        return Prompt(id, text, tuple(ids), problem.answer, problem.metadata, config.rewards)

    def _unfit(self, tokens: int, config: SourceSettings, id: str) -> Unfit | None:
        if tokens < config.min_prompt_tokens:
            return "min_prompt_tokens"
        if config.max_prompt_tokens is not None and tokens > config.max_prompt_tokens:
            return "max_prompt_tokens"
        if tokens <= self._max_tokens:
            return None
        if config.too_long == "skip":
            return "too_long"
        raise UserError(
            f"data {id}: the prompt has {tokens} tokens, and there is room for "
            f"{self._max_tokens} beside the response; raise rollout.context_length, lower "
            'max_new_tokens, or set too_long = "skip" in this source'
        )

    def _chat_text(self, row: Row) -> str:
        from jinja2 import TemplateError

        if self._tokenizer.chat_template is None:
            raise UserError(
                f"data {row.id}: a chat prompt needs a chat template, and the model's tokenizer "
                "has none; use an instruction-tuned model, add chat_template.jinja to the model's "
                "folder, or use plain text (string prompts, chat = false)"
            )
        messages = _messages(row)
        try:
            text: str = self._tokenizer.apply_chat_template(
                [dict(turn) for turn in messages], add_generation_prompt=True, tokenize=False
            )
        except TemplateError as error:
            raise UserError(
                f"data {row.id}: the tokenizer's chat template refuses the messages "
                f"({', '.join(turn['role'] for turn in messages)}): {error}"
            ) from error
        return text

    def _plain_ids(self, text: str) -> list[int]:
        """The text's ids with the tokenizer's own special tokens, less an end of sequence it adds.

        A response cannot follow an end of sequence; one that stands in the text itself stays.
        """
        ids = list(self._tokenizer(text).input_ids)
        if ids and ids[-1] == self._tokenizer.eos_token_id:
            bare = list(self._tokenizer(text, add_special_tokens=False).input_ids)
            if len(ids) > 1 and bare[-1:] != ids[-1:]:
                ids.pop()
        return ids


def render(template: str, prompt: str, columns: Mapping[str, Any], where: str) -> str:
    """The template with `prompt` and the row's other columns in it.

    Raises UserError, naming `where`, for a column the row does not have and for a template that
    fails.
    """
    from jinja2 import TemplateError, UndefinedError

    compiled = _compiled(template)
    given = {name: value for name, value in columns.items() if name != NOT_SHOWN}
    given["prompt"] = prompt
    try:
        return compiled.template.render(given)
    except UndefinedError as error:
        lacking = compiled.names - given.keys()
        raise UserError(f"data {where}: {_what_lacks(lacking, given, error)}") from error
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise UserError(f"data {where}: the template fails: {error}") from error


def _what_lacks(lacking: frozenset[str], given: Mapping[str, Any], error: Exception) -> str:
    if NOT_SHOWN in lacking:
        return (
            "the template asks for the answer, which it never gets: the model would read it "
            "off the prompt; take it out"
        )
    if lacking:
        return (
            f"the template asks for {', '.join(map(repr, sorted(lacking)))}, which is no column "
            f"of the row; there are: {', '.join(sorted(given))}"
        )
    return f"the template fails: {error}"


class _Compiled(NamedTuple):
    """A template, and the names it looks up in the row."""

    template: Template
    names: frozenset[str]


@lru_cache
def _compiled(template: str) -> _Compiled:
    from jinja2 import StrictUndefined, meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    sandbox = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    names = meta.find_undeclared_variables(sandbox.parse(template)) - sandbox.globals.keys()
    return _Compiled(sandbox.from_string(template), frozenset(names))


def _examples(config: SourceSettings, id: str) -> Sequence[tuple[str, str]]:
    """Prompt, through the template, and answer of each few-shot example."""
    source = id.rpartition("/")[0]
    return [
        (render(config.template, shot.prompt, {}, f"{source}, few_shot[{at}]"), shot.answer)
        for at, shot in enumerate(config.few_shot)
    ]


def _messages(row: Row) -> list[Message]:
    """System messages, the examples as turns, then what the row asks."""
    problem, config, id = row
    if isinstance(problem.prompt, str):
        text = render(config.template, problem.prompt, problem.metadata, id)
        asked: list[Message] = [{"role": "user", "content": text}]
    else:
        asked = list(problem.prompt)
    first = next((at for at, turn in enumerate(asked) if turn["role"] != "system"), len(asked))
    system = [] if config.system is None else [{"role": "system", "content": config.system}]
    turns: list[Message] = []
    for prompt, answer in _examples(config, id):
        turns += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return [*system, *asked[:first], *turns, *asked[first:]]
