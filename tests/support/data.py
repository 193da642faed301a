"""Data for tests: a character tokenizer, sources of a few rows, and a stream over them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from drpo_cli.data import arithmetic, jsonl
from drpo_cli.data.pipeline.prompts import Prompts
from drpo_cli.data.pipeline.stream import Batching, Data, open_data
from drpo_cli.plugins import Selected, absolute
from drpo_cli.settings import EvalSettings, SourceSettings
from drpo_cli.types import Prompt

CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "{{ m.role[0] }}:{{ m.content }};{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)


def make_tokenizer(ends: str = "", chat: str | None = None) -> PreTrainedTokenizerFast:
    """One token per character; `ends` as `^~` puts special tokens around plain text."""
    vocab = {chr(c): c - 32 for c in range(32, 127)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    if ends:
        single = f"{ends[0]} $A {ends[1]}"
        special = [(token, vocab[token]) for token in ends]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=special
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="^", eos_token="~", chat_template=chat
    )


PLAIN = make_tokenizer()
SUMS = Selected("data", "arithmetic", arithmetic.Config(digits=1))


def rows_of(path: Path, *prompts: object, **options: Any) -> Selected[Any]:
    """A JSON Lines source of these prompts."""
    path.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
    config = jsonl.Config.model_validate({"path": str(path), **options})
    return Selected("data", "jsonl", config)


def endless(folder: Path, name: str, distinct: int = 2**31, **options: Any) -> Selected[Any]:
    """A source of 2^31 − 1 rows `name0`, `name1`, …, after `distinct` of them from 0 again."""
    (folder / f"{name}.py").write_text(
        "from drpo_cli.data.pipeline.rows import Lazy\n"
        "from drpo_cli.types import Problem\n"
        "def load(config):\n"
        f"    return Lazy(2**31 - 1, lambda i: Problem(f'{name}{{i % {distinct}}}'))\n"
    )
    return Selected("data", absolute(f"./{name}.py", folder), SourceSettings(**options))


def open_stream(
    *sources: Selected[Any],
    n: int = 8,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    held_out: tuple[Selected[Any], ...] = (),
    problems: int = 10,
) -> Data:
    """Opens the sources as plain text, with room for 64 tokens."""
    evaluation = EvalSettings(problems=problems)
    batching = Batching(n, seed, rank, world)
    return open_data(sources, held_out, evaluation, Prompts(PLAIN, 64), batching)


def steps(opened: Data, count: int) -> list[list[Prompt]]:
    """The prompts of the next `count` steps."""
    return [opened.stream.next() for _ in range(count)]


def flat(batches: list[list[Prompt]]) -> list[str]:
    """Their texts in one list."""
    return [prompt.text for batch in batches for prompt in batch]


def ids(batches: list[list[Prompt]]) -> Iterator[str]:
    """Their ids, one after the other."""
    return (prompt.id for batch in batches for prompt in batch)
