"""Renders a row into the prompt that the model sees: template, examples, chat, ids, length."""

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
"""Why a row is skipped: the name of the option that decides it."""
EXAMPLE_END = "\n\n"
"""Text after the answer of a plain-text example."""
HIDDEN = "answer"
"""The column that no template gets."""


class Prompts:
    """Makes prompts for one tokenizer.

    `max_tokens` is the longest prompt: the context less the longest response. Token ids must be
    below `vocabulary`, the rows of the model's embedding, where there is a model.
    `compared` names the rewards that compare with the reference answer.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_tokens: int,
        vocabulary: int | None = None,
        compared: Sequence[str] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._vocabulary = vocabulary
        self._compared = compared

    def make(self, row: Row) -> Prompt | Unfit:
        """Makes the prompt of a row, or returns the option that skips it.

        Raises UserError for a prompt that has no tokens or one that the model does not know, that a
        template cannot render, or that leaves no room for the response, unless its source skips
        those.
        """
        problem, config, id = row
        if config.chat or not isinstance(problem.prompt, str):
            text = self._chat_text(row)
            ids = list(self._tokenizer(text, add_special_tokens=False).input_ids)  # in text
        else:
            if config.system is not None:
                raise UserError(f"data {id}: `system` needs a chat prompt", "set chat = true")
            shots = _render_examples(config, id)
            text = "".join(asked + answer + EXAMPLE_END for asked, answer in shots)
            text += render(config.template, problem.prompt, problem.metadata, id)
            ids = self._plain_ids(text)
        if not ids:
            raise UserError(f"data {id}: the prompt is empty", "write one, or remove the row")
        if unfit := self._check_length(len(ids), config, id):
            return unfit
        self._require_known(ids, id)
        if problem.answer is None:
            self._require_no_answer(config, id)
        return Prompt(id, text, tuple(ids), problem.answer, problem.metadata, config.rewards)

    def _check_length(self, tokens: int, config: SourceSettings, id: str) -> Unfit | None:
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
            f"{self._max_tokens} beside the response",
            'raise rollout.context_length, lower max_new_tokens, or set too_long = "skip" in this '
            "source",
        )

    def _require_no_answer(self, config: SourceSettings, id: str) -> None:
        for name in self._compared:
            if config.rewards is None or name in config.rewards:
                raise UserError(
                    f"data {id}: the row has no answer, and reward {name!r} compares with it",
                    "name the column with fields.answer, remove the row, or name the rewards of "
                    "this source in its `rewards`",
                )

    def _require_known(self, ids: Sequence[int], id: str) -> None:
        highest = max(ids)
        if self._vocabulary is not None and highest >= self._vocabulary:
            token = self._tokenizer.convert_ids_to_tokens(highest)
            raise UserError(
                f"data {id}: the prompt has the token {token!r} (id {highest}), but the model's "
                f"embedding has only {self._vocabulary} rows",
                "use the tokenizer that belongs to the model, remove the token from text, few_shot "
                "and chat template, or give the model a row for it (resize_token_embeddings)",
            )

    def _chat_text(self, row: Row) -> str:
        from jinja2 import TemplateError

        if self._tokenizer.chat_template is None:
            raise UserError(
                f"data {row.id}: a chat prompt needs a chat template, and the model's tokenizer "
                "has none",
                "use an instruction-tuned model, add chat_template.jinja to the model's folder, or "
                "use plain text (string prompts, chat = false)",
            )
        messages = _make_messages(row)
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
        """The text's ids with the tokenizer's special tokens, without an end of sequence it adds.

        A response cannot follow an end of sequence. One that is part of the text itself stays.
        """
        ids = list(self._tokenizer(text).input_ids)
        if ids and ids[-1] == self._tokenizer.eos_token_id:
            bare = list(self._tokenizer(text, add_special_tokens=False).input_ids)
            if len(ids) > 1 and bare[-1:] != ids[-1:]:
                ids.pop()
        return ids


def render(template: str, prompt: str, columns: Mapping[str, Any], where: str) -> str:
    """Fills the template with `prompt` and the row's other columns.

    Raises UserError, naming `where`, for a column that the row lacks and a template that fails.
    """
    from jinja2 import TemplateError, UndefinedError

    compiled = _compile(template)
    given = {name: value for name, value in columns.items() if name != HIDDEN}
    given["prompt"] = prompt
    try:
        return compiled.template.render(given)
    except UndefinedError as error:
        missing = sorted(compiled.names - given.keys())
        if HIDDEN in missing:
            raise UserError(
                f"data {where}: the template asks for the answer, which it never gets: the model "
                "would read it in the prompt",
                "remove it from the template",
            ) from error
        if missing:
            raise UserError(
                f"data {where}: the template asks for {', '.join(map(repr, missing))}, but the row "
                f"has no such column; its columns are {', '.join(sorted(given))}"
            ) from error
        raise UserError(f"data {where}: the template fails: {error}") from error
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise UserError(f"data {where}: the template fails: {error}") from error


class _Compiled(NamedTuple):
    """A template, and the columns that it asks for."""

    template: Template
    names: frozenset[str]


@lru_cache
def _compile(template: str) -> _Compiled:
    from jinja2 import StrictUndefined, meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    sandbox = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    names = meta.find_undeclared_variables(sandbox.parse(template)) - sandbox.globals.keys()
    return _Compiled(sandbox.from_string(template), frozenset(names))


def _render_examples(config: SourceSettings, id: str) -> Sequence[tuple[str, str]]:
    """The prompt, through the template, and the answer of each few-shot example."""
    source = id.rpartition("/")[0]
    return [
        (render(config.template, shot.prompt, {}, f"{source}, few_shot[{at}]"), shot.answer)
        for at, shot in enumerate(config.few_shot)
    ]


def _make_messages(row: Row) -> list[Message]:
    """System messages, then the examples as turns, then what the row asks."""
    problem, config, id = row
    if isinstance(problem.prompt, str):
        text = render(config.template, problem.prompt, problem.metadata, id)
        asked: list[Message] = [{"role": "user", "content": text}]
    else:
        asked = list(problem.prompt)
    first = next((at for at, turn in enumerate(asked) if turn["role"] != "system"), len(asked))
    system = [] if config.system is None else [{"role": "system", "content": config.system}]
    turns: list[Message] = []
    for prompt, answer in _render_examples(config, id):
        turns += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return [*system, *asked[:first], *turns, *asked[first:]]
