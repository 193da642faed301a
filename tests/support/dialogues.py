"""Six families of chat templates, tokenizers made on the spot, an engine that follows orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from drpo_cli.data.pipeline.prompts import Prompts
from drpo_cli.data.pipeline.rows import Row
from drpo_cli.environments.dialogue.chats import Chats
from drpo_cli.environments.dialogue.dialogue import Dialogue
from drpo_cli.rollout.engine.text import decode_response
from drpo_cli.settings import SourceSettings
from drpo_cli.types import Action, Message, Problem, Prompt, Rollout

TEMPLATES = Path(__file__).parent / "chat_templates"
TEXT = (
    "the end\n\nof the\n{ the answer }\n\n is 12.\nthe user\nasks: the tool}\n\n answers\n\n\n" * 20
)
"""What the tokenizers' merges are learned from: many go over the ends of lines."""


@dataclass(frozen=True)
class Family:
    """A family of chat models.

    special  its control tokens; the first begins a text, the second ends a response
    markup   added tokens that are not special
    ends     more tokens that end a response
    tools    whether the template prints tools
    """

    special: tuple[str, ...]
    markup: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    tools: bool = True


CALL_TAGS = ("<tool_call>", "</tool_call>")
FAMILIES = {
    "chatml": Family(
        ("<|im_start|>", "<|im_end|>", "<|endoftext|>"), CALL_TAGS, ("<|endoftext|>",)
    ),
    "qwen3": Family(
        ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
        (*CALL_TAGS, "<tool_response>", "</tool_response>", "<think>", "</think>"),
        ends=("<|endoftext|>",),
    ),
    "llama3": Family(
        (
            *("<|begin_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>"),
            *("<|start_header_id|>", "<|end_header_id|>"),
        ),
        ends=("<|eom_id|>",),
    ),
    "mistral": Family(
        (
            *("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]"),
            *("[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        ),
    ),
    "gpt_oss": Family(
        (
            *("<|start|>", "<|return|>", "<|call|>", "<|end|>", "<|message|>", "<|channel|>"),
            "<|constrain|>",
        ),
        ends=("<|call|>",),
    ),
    "gemma": Family(
        ("<bos>", "<end_of_turn>", "<eos>", "<start_of_turn>"), ends=("<eos>",), tools=False
    ),
}
TOOLS: tuple[Mapping[str, Any], ...] = tuple(
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Does something.",
            "parameters": {
                "type": "object",
                "properties": {"x": {"type": "string"}, "n": {"type": "integer"}},
            },
        },
    }
    for name in ("look", "add")
)


@lru_cache
def make_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE with the control tokens of a family, and its template."""
    family = FAMILIES[name]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(family.special),
        show_progress=False,
    )
    inner.train_from_iterator(TEXT.split("  "), trainer)
    inner.add_tokens([AddedToken(token, normalized=False) for token in family.markup])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=family.special[0], eos_token=family.special[1]
    )
    tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
    return tokenizer


@lru_cache
def chats_of(name: str) -> Chats:
    """The dialogues of a family."""
    tokenizer, family = make_tokenizer(name), FAMILIES[name]
    ends = (family.special[1], *family.ends)
    return Chats(tokenizer, tokenizer.convert_tokens_to_ids(list(ends)))


def prompt_of(tokenizer: Any, text: str = "Go.", **options: Any) -> Prompt:
    """The prompt of a row."""
    row = Row(Problem(text), SourceSettings(**{"chat": True, **options}), "own/0")
    prompt = Prompts(tokenizer, 10_000).make(row)
    assert isinstance(prompt, Prompt)
    return prompt


def begin(
    name: str,
    tools: bool = False,
    history: Any = "template",
    chats: Chats | None = None,
    **options: Any,
) -> Dialogue:
    """A dialogue that starts with the message of a row."""
    prompt = prompt_of(make_tokenizer(name), **options)
    asked = prompt.messages[prompt.opening :]
    return (chats or chats_of(name)).begin(prompt, asked, TOOLS if tools else (), history)


def rollout(
    tokenizer: Any, prompt_ids: Sequence[int], ids: Sequence[int], ends: Sequence[int], cut: bool
) -> Rollout:
    """What an engine gives back for these tokens: `cut` says that it ran out of them."""
    ended = not cut and bool(ids) and ids[-1] in ends
    text = decode_response(tokenizer, prompt_ids, ids[:-1] if ended else ids)
    return Rollout(tuple(ids), tuple(-0.5 - k for k in range(len(ids))), text, cut)


class Played:
    """A dialogue with an engine that samples what it is asked to, and remembers what it saw."""

    def __init__(self, name: str, dialogue: Dialogue) -> None:
        self.dialogue = dialogue
        self.name, self.tokenizer = name, make_tokenizer(name)
        family = FAMILIES[name]
        self.ends = self.tokenizer.convert_tokens_to_ids([family.special[1], *family.ends])
        self.saw: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def act(self, text: str, cut: bool = False, ids: Sequence[int] | None = None) -> Action:
        """Samples a text, or exactly these tokens."""
        ids = self.encode(text) if ids is None else ids
        prompt_ids = self.dialogue.prompt_ids
        self.saw.append((prompt_ids, tuple(ids)))
        return self.dialogue.act(rollout(self.tokenizer, prompt_ids, ids, self.ends, cut))

    def observe(self, *messages: Message | str) -> None:
        """Observes messages; a text is one of the user."""
        self.dialogue.observe(
            [{"role": "user", "content": m} if isinstance(m, str) else m for m in messages]
        )

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def check(self) -> tuple[Rollout, ...]:
        """Holds that the rows are what the engine saw and sampled, id for id; returns them."""
        rows, spans = self.dialogue.rows(), self.dialogue.spans
        assert len(spans) == len(self.saw)
        for (row, first, end), (prompt_ids, ids) in zip(spans, self.saw, strict=True):
            found = rows[row]
            assert found.prompt_ids is not None and found.sampled is not None
            assert (*found.prompt_ids, *found.token_ids[:first]) == prompt_ids
            assert found.token_ids[first:end] == ids
            assert found.logps[first:end] == tuple(-0.5 - k for k in range(len(ids)))
        for at, found in enumerate(rows):
            marked = [False] * len(found.token_ids)
            for _, first, end in (span for span in spans if span[0] == at):
                marked[first:end] = [True] * (end - first)
            assert found.sampled == tuple(marked)
            assert len(found.logps) == len(marked) and (not marked or marked[-1])
            assert all(logp == 0 or own for logp, own in zip(found.logps, marked, strict=True))
        return rows

    @property
    def begins_row(self) -> bool:
        """Whether the next action is the first of a row."""
        return self.dialogue._row.turns == []

    @property
    def text(self) -> str:
        """What the policy continues, as text."""
        text: str = self.tokenizer.decode(list(self.dialogue.prompt_ids))
        return text
