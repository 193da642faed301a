"""From problems to the prompts of a step: tokenize, shuffle, share among ranks, remember where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drpo_cli.data._rows import Row
from drpo_cli.data._split import Split, shuffled, split
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.settings import SourceSettings
from drpo_cli.types import Message, Problem, Prompt


@dataclass(frozen=True)
class Batching:
    """How many prompts a step takes over all ranks, in which order, and whose share is wanted."""

    prompts_per_step: int
    seed: int
    rank: int = 0
    world: int = 1


class PromptStream:
    """Endless training prompts, reshuffled every epoch; the rest of an epoch joins the next one.

    All ranks walk the same global order and each takes its part of a step, so that the order
    depends neither on the number of ranks nor on which rows are skipped, and a cursor saved on
    one world size continues on any other.
    """

    def __init__(
        self, data: Split, tokenizer: Any, max_prompt_tokens: int, batching: Batching
    ) -> None:
        if batching.prompts_per_step % batching.world:
            raise UserError(
                f"rollout.prompts_per_step = {batching.prompts_per_step} does not divide among "
                f"{batching.world} processes; make it a multiple"
            )
        self._split = data
        self._tokenizer = tokenizer
        self._max_prompt_tokens = max_prompt_tokens
        self._batching = batching
        self._go_to(0, 0)

    def next(self) -> list[Prompt]:
        """This rank's prompts_per_step / world prompts of the next step."""
        step_P = [self._next_prompt() for _ in range(self._batching.prompts_per_step)]
        share = len(step_P) // self._batching.world
        return step_P[self._batching.rank * share :][:share]

    def state_dict(self) -> dict[str, int]:
        """The global cursor."""
        return {"epoch": self._epoch, "position": self._position, "rows": len(self._split.rows)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at a saved cursor. Raises UserError when the data is not what it was."""
        if state["rows"] != len(self._split.rows):
            raise UserError(
                f"data: the checkpoint was made with {state['rows']} training rows, now there "
                f"are {len(self._split.rows)}; resume with the same data, or start a new run"
            )
        self._go_to(state["epoch"], state["position"])

    def _go_to(self, epoch: int, position: int) -> None:
        self._epoch, self._position = epoch, position
        self._order = shuffled(len(self._split.rows), self._batching.seed, epoch)

    def _next_prompt(self) -> Prompt:
        # A row that can be served comes at the latest at the end of the epoch after this one.
        for _ in range(2 * len(self._split.rows)):
            if self._position == len(self._order):
                self._go_to(self._epoch + 1, 0)
            row = self._split.rows[self._order[self._position]]
            self._position += 1
            if self._split.trains(row):
                prompt = _tokenize_row(row, self._tokenizer, self._max_prompt_tokens)
                if prompt is not None:
                    return prompt
        raise UserError(
            f"data: every training prompt is longer than {self._max_prompt_tokens} tokens and "
            'skipped (too_long = "skip"); raise rollout.context_length or lower '
            "rollout.max_new_tokens"
        )


@dataclass(frozen=True)
class Data:
    """What a run reads.

    stream      training prompts
    held_out    evaluation prompts, the same on every rank
    train_rows  rows of the training sources; held-out ones among them are passed over when their
                turn comes, so that nothing is read up front
    """

    stream: PromptStream
    held_out: list[Prompt]
    train_rows: int


def open_data(
    sources: Sequence[Selected],
    eval_sources: Sequence[Selected],
    eval_problems: int,
    tokenizer: Any,
    max_prompt_tokens: int,
    batching: Batching,
) -> Data:
    """Open the sources, hold out the evaluation problems and start the training stream.

    Raises UserError for an empty source, for data of which nothing is left to train or evaluate
    on, and for a prompt longer than `max_prompt_tokens` where its source does not skip those.
    """
    data = split(sources, eval_sources, eval_problems)
    tokenized = (_tokenize_row(row, tokenizer, max_prompt_tokens) for row in data.held_out_rows)
    held_out = [prompt for prompt in tokenized if prompt is not None]
    if data.held_out_rows and not held_out:
        raise UserError(
            f"data: every held-out prompt is longer than {max_prompt_tokens} tokens and skipped "
            '(too_long = "skip"); raise rollout.context_length or lower max_new_tokens'
        )
    stream = PromptStream(data, tokenizer, max_prompt_tokens, batching)
    return Data(stream, held_out, len(data.rows))


def _tokenize_row(row: Row, tokenizer: Any, max_prompt_tokens: int) -> Prompt | None:
    return tokenize(row.problem, row.config, tokenizer, row.id, max_prompt_tokens)


def tokenize(
    problem: Problem, config: SourceSettings, tokenizer: Any, id: str, max_prompt_tokens: int
) -> Prompt | None:
    """The problem as the model sees it, or None where it is too long and `too_long` says skip.

    Raises UserError for a prompt that is too long, has no tokens, or cannot be rendered by the
    tokenizer's chat template.
    """
    if config.chat or not isinstance(problem.prompt, str):
        text = _chat_text(problem.prompt, config, tokenizer, id)
        ids = list(tokenizer(text, add_special_tokens=False).input_ids)  # the template has them
    else:
        if config.system is not None:
            raise UserError(f"data {id}: `system` needs a chat prompt; set chat = true")
        text = config.template.replace("{prompt}", problem.prompt)
        ids = _plain_ids(text, tokenizer)
    if not ids:
        raise UserError(f"data {id}: the prompt is empty; give the row some text or remove it")
    if len(ids) > max_prompt_tokens:
        if config.too_long == "skip":
            return None
        raise UserError(
            f"data {id}: the prompt has {len(ids)} tokens, and there is room for "
            f"{max_prompt_tokens} beside the response; raise rollout.context_length, lower "
            'max_new_tokens, or set too_long = "skip" in this source'
        )
    return Prompt(id, text, tuple(ids), problem.answer, problem.metadata)


def _chat_text(
    prompt: str | tuple[Message, ...], config: SourceSettings, tokenizer: Any, id: str
) -> str:
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        raise UserError(
            f"data {id}: a chat prompt needs a chat template, and the model's tokenizer has none; "
            "use an instruction-tuned model, add chat_template.jinja to the model's folder, or "
            "use plain text (string prompts, chat = false)"
        )
    if isinstance(prompt, str):
        prompt = ({"role": "user", "content": config.template.replace("{prompt}", prompt)},)
    if config.system is not None:
        prompt = ({"role": "system", "content": config.system}, *prompt)
    try:
        return tokenizer.apply_chat_template(
            [dict(message) for message in prompt], add_generation_prompt=True, tokenize=False
        )
    except TemplateError as error:
        raise UserError(
            f"data {id}: the tokenizer's chat template refuses the messages "
            f"({', '.join(message['role'] for message in prompt)}): {error}"
        ) from error


def _plain_ids(text: str, tokenizer: Any) -> list[int]:
    """The text's ids with the tokenizer's own special tokens, less an end of sequence it adds.

    A response cannot follow an end of sequence; one that stands in the text itself stays.
    """
    ids = list(tokenizer(text).input_ids)
    if ids and ids[-1] == tokenizer.eos_token_id:
        bare = list(tokenizer(text, add_special_tokens=False).input_ids)
        if len(ids) > 1 and bare[-1:] != ids[-1:]:
            ids.pop()
    return ids
