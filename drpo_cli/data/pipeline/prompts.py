"""Renders a row into the prompt that the model sees: template, examples, chat, ids, length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from drpo_cli.chat_templates import naming
from drpo_cli.data.pipeline.chat import Chats
from drpo_cli.data.pipeline.problems import INSTRUCTIONS
from drpo_cli.data.pipeline.rows import Row
from drpo_cli.data.pipeline.templates import render
from drpo_cli.data.pipeline.values import UnfitError, valid_text
from drpo_cli.errors import UserError
from drpo_cli.settings import SourceSettings
from drpo_cli.types import ChatTemplate, Message, Prompt

Unfit = Literal["min_prompt_tokens", "max_prompt_tokens", "too_long"]
"""Why a row is skipped: the name of the option that decides it."""
EXAMPLE_END = "\n\n"
"""Text after the answer of a plain-text example."""

CHAT_OPTIONS = {
    "system": "set chat = true",
    "template_options": "set chat = true",
    "chat_template": "set chat = true",
    "continue_final_message": "remove it: only a list of messages can end with the assistant's",
}
"""Options of a source that plain text has no use for, and what to do about them."""


class _Rendered(NamedTuple):
    """A row as text, and what `Prompt` keeps of how it became that."""

    text: str
    special: bool  # whether the tokenizer adds its special tokens
    messages: list[Message]
    opening: int
    template: ChatTemplate | None


class Prompts:
    """Makes prompts for one tokenizer.

    `max_tokens` is the longest prompt: the context less the longest response. Token ids must be
    below `vocabulary`, the rows of the model's embedding, where there is a model. `compared` names
    the rewards that compare with the reference answer. `environments` are the names of the run's
    environments. `doubled_bos` has the sources of which a prompt began with two beginnings of
    sequence.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_tokens: int,
        vocabulary: int | None = None,
        compared: Sequence[str] = (),
        environments: Sequence[str] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._chats = Chats(tokenizer)
        self.doubled_bos: set[str] = set()
        self._max_tokens = max_tokens
        self._vocabulary = vocabulary
        self._compared = compared
        self._environment = next(iter(environments), None)

    @property
    def bos(self) -> str | None:
        """The beginning of a sequence, as text."""
        text: str | None = self._tokenizer.bos_token
        return text

    def make(self, row: Row) -> Prompt | Unfit:
        """Makes the prompt of a row, or returns the option that skips it.

        Raises UserError for a prompt that has no tokens or one that the model does not know, that a
        template cannot render, or that leaves no room for the response, unless its source skips
        those.
        """
        rendered = self._render(row)
        with naming(f"data {row.id}: the tokenizer cannot read the text"):
            (ids,) = self._ids([rendered.text], rendered.special)
        return self._finish(row, rendered, ids)

    def check(self, rows: Mapping[int, Row]) -> dict[int, UserError]:
        """The errors of the rows for which `make` raises one, by the rows' keys.

        The tokenizer reads all rows at once, which takes less time than one after the other.
        """
        refused, rendered = {}, {}
        for at, row in rows.items():
            try:
                rendered[at] = self._render(row)
            except UserError as error:
                refused[at] = error
        for special in (False, True):
            chosen = [at for at, one in rendered.items() if one.special is special]
            try:
                with naming("a text cannot be read"):
                    ids = self._ids([rendered[at].text for at in chosen], special)
            except UserError:
                finish = [partial(self.make, rows[at]) for at in chosen]
            else:
                finish = [
                    partial(self._finish, rows[at], rendered[at], read)
                    for at, read in zip(chosen, ids, strict=True)
                ]
            for at, finished in zip(chosen, finish, strict=True):
                try:
                    finished()
                except UserError as error:
                    refused[at] = error
        return refused

    def _render(self, row: Row) -> _Rendered:
        problem, config, id = row
        chat = config.chat or not isinstance(problem.prompt, str)
        template = None
        if chat:
            messages, opening = _make_messages(row)
            text, template = self._chats.render(messages, row)
        else:
            text = _plain_text(row)
        try:
            text = valid_text(text, config.invalid_unicode == "replace")
        except UnfitError as error:
            raise UserError(f"data {id}: the text {error.what}", error.fix) from error
        if not chat:
            messages, opening = [{"role": "user", "content": text}], 0
        special = not chat if config.add_special_tokens is None else config.add_special_tokens
        return _Rendered(text, special, messages, opening, template)

    def _finish(self, row: Row, rendered: _Rendered, ids: list[int]) -> Prompt | Unfit:
        problem, config, id = row
        bos = self._tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos]:  # which no model was trained on
            self.doubled_bos.add(id.rpartition("/")[0])
        if not ids:
            raise UserError(f"data {id}: the prompt is empty", "write one, or remove the row")
        if unfit := self._check_length(len(ids), config, id):
            return unfit
        self._require_known(ids, id)
        if problem.answer is None:
            self._require_no_answer(config, id)
        return Prompt(
            id,
            rendered.text,
            tuple(ids),
            problem.answer,
            problem.metadata,
            config.rewards,
            messages=tuple(rendered.messages),
            opening=rendered.opening,
            template=rendered.template,
            environment=config.environment or self._environment,
        )

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

    def _ids(self, texts: list[str], special: bool) -> list[list[int]]:
        """The texts' ids; with `special` tokens, but without an end of sequence that they add.

        A response cannot follow an end of sequence. One that is part of the text itself stays.
        """
        found = []
        read = self._tokenizer(texts, add_special_tokens=special).input_ids if texts else []
        for text, row in zip(texts, read, strict=True):
            ids = list(row)
            if special and len(ids) > 1 and ids[-1] == self._tokenizer.eos_token_id:
                bare = list(self._tokenizer(text, add_special_tokens=False).input_ids)
                if bare[-1:] != ids[-1:]:
                    ids.pop()
            found.append(ids)
        return found


def converse(row: Row) -> tuple[list[Message], int]:
    """A row's prompt as a chat, as `Prompt` has it, and how many of the first messages are not its.

    Needs no tokenizer. Raises UserError as `Prompts.make` does.
    """
    if row.config.chat or not isinstance(row.problem.prompt, str):
        return _make_messages(row)
    return [{"role": "user", "content": _plain_text(row)}], 0


def _plain_text(row: Row) -> str:
    problem, config, id = row
    assert isinstance(problem.prompt, str)
    for name in CHAT_OPTIONS:
        if getattr(config, name) not in (None, False, {}):
            raise UserError(f"data {id}: `{name}` needs a chat prompt", CHAT_OPTIONS[name])
    shots = _render_examples(config, id)
    text = "".join(asked + answer + EXAMPLE_END for asked, answer in shots)
    return text + render(config.template, problem.prompt, problem.metadata, id)


def _render_examples(config: SourceSettings, id: str) -> Sequence[tuple[str, str]]:
    """The prompt, through the template, and the answer of each few-shot example."""
    source = id.rpartition("/")[0]
    return [
        (render(config.template, shot.prompt, {}, f"{source}, few_shot[{at}]"), shot.answer)
        for at, shot in enumerate(config.few_shot)
    ]


def _make_messages(row: Row) -> tuple[list[Message], int]:
    """System messages, then the examples as turns, then what the row asks; where the last begins.

    A system message of the row itself counts to the front, so the front has every one.
    """
    problem, config, id = row
    if isinstance(problem.prompt, str):
        if config.continue_final_message:
            fix = CHAT_OPTIONS["continue_final_message"]
            raise UserError(f"data {id}: `continue_final_message` needs a chat prompt", fix)
        text = render(config.template, problem.prompt, problem.metadata, id)
        asked: list[Message] = [{"role": "user", "content": text}]
    else:
        asked = list(problem.prompt)
    first = next(
        (at for at, turn in enumerate(asked) if turn["role"] not in INSTRUCTIONS), len(asked)
    )
    system = [] if config.system is None else [{"role": "system", "content": config.system}]
    turns: list[Message] = []
    for prompt, answer in _render_examples(config, id):
        turns += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    front = [*system, *asked[:first], *turns]
    return [*front, *asked[first:]], len(front)
