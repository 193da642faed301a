"""Tiny random models as Hugging Face folders, random experiences, a process group of one."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedTokenizerFast

from drpo_cli import dist
from drpo_cli.experience import Experience
from drpo_cli.types import Group, Prompt, Rollout
from support.families import EOS_ID as EOS_ID
from support.families import FAMILIES
from support.families import SIZES as SIZES
from support.families import VOCABULARY as VOCABULARY

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
CHARACTERS = "0123456789+-*/=() abcdefghijklmnopqrstuvwxyz?.,:\n"
KINDS = [
    *("qwen3", "llama", "qwen2", "mistral", "phi3", "gemma2", "gemma3", "qwen3_moe", "gpt_oss"),
    *("gemma4", "gemma3n", "deepseek_v3", "smollm3", "cohere2", "ministral3", "glm4_moe"),
    *("qwen3_next", "qwen3_5", "lfm2", "falcon_h1", "nemotron_h", "stablelm"),
]
"""Families of `tiny_model` for tests that need not see them all."""
SPREAD = 0.08  # of every weight matrix: enough that log-probs are not flat


def tiny_model(folder: Path, kind: str = "qwen3", seed: int = 0, **overrides: Any) -> Path:
    """Writes a random model of an architecture and its tokenizer; `overrides` go to its config.

    The same arguments give the same weights. Returns `folder`.
    """
    config = FAMILIES[kind].config(**overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lm = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
        for parameter in lm.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=SPREAD)
        saved = lm.state_dict().keys()
        for name, buffer in lm.named_buffers():
            if name in saved:
                torch.nn.init.normal_(buffer, std=SPREAD)
    lm.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, `VOCABULARY` tokens in all."""
    tokens = [*SPECIAL, *CHARACTERS]
    tokens += [f"<extra{i}>" for i in range(VOCABULARY - len(tokens))]
    known = {token: i for i, token in enumerate(tokens)}
    inner = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(pattern="", behavior="isolated")
    inner.decoder = decoders.Fuse()
    pad, bos, eos, unk = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=pad, bos_token=bos, eos_token=eos, unk_token=unk
    )


@dataclass(frozen=True)
class Row:
    """One row of an `Experience` as a test writes it: a number per response token in each column.

    `kept` is false for a row without any loss; `loss_mask` may leave single tokens out.
    """

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    old_logps: tuple[float, ...]
    advantages: tuple[float, ...]
    values: tuple[float, ...] | None = None
    returns: tuple[float, ...] | None = None
    kept: bool = True
    loss_mask: tuple[bool, ...] | None = None
    experts: Any = field(default=None, compare=False)

    @property
    def input_length(self) -> int:
        """The tokens that go through the model."""
        return len(self.prompt_ids) + len(self.response_ids) - 1

    @property
    def mask(self) -> tuple[bool, ...]:
        """Whether each response token has a loss."""
        return self.loss_mask or (self.kept,) * len(self.response_ids)


def experience(rows: Sequence[Row]) -> Experience:
    """The rows as an experience; neighbours with one prompt are a group."""
    groups = [
        Group(
            Prompt(str(place), "", prompt_ids, None, {}),
            tuple(
                Rollout(row.response_ids, row.old_logps, "", False, row.experts) for row in members
            ),
        )
        for place, (prompt_ids, members) in enumerate(groupby(rows, lambda row: row.prompt_ids))
    ]
    valued = all(row.values is not None for row in rows)

    def column(parts: Iterable[Sequence[float] | None]) -> torch.Tensor:
        return torch.tensor([x for part in parts for x in part or ()], dtype=torch.float64)

    exp = Experience.of(groups)
    return replace(
        exp,
        advantage_T=column(row.advantages for row in rows),
        loss_mask_T=exp.loss_mask_T & column(row.mask for row in rows).bool(),
        value_T=column(row.values for row in rows) if valued else None,
        return_T=column(row.returns for row in rows) if valued else None,
    )


def samples(lengths: Sequence[tuple[int, int]], seed: int = 0) -> list[Row]:
    """A random row for each (prompt tokens, response tokens)."""
    rng = random.Random(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(len(SPECIAL), VOCABULARY) for _ in range(count))

    return [
        Row(
            prompt_ids=ids(prompt),
            response_ids=ids(response),
            old_logps=tuple(rng.uniform(-6, -0.5) for _ in range(response)),
            advantages=(rng.uniform(-1, 1),) * response,
        )
        for prompt, response in lengths
    ]


def free_port() -> int:
    """A TCP port on which nothing listens at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def group(prompt: int, responses: Sequence[int], seed: int = 0) -> list[Row]:
    """Random rows of one prompt of so many tokens, by the number of their response tokens."""
    batch = samples([(prompt, response) for response in responses], seed)
    return [replace(sample, prompt_ids=batch[0].prompt_ids) for sample in batch]


@contextmanager
def world(rank: int = 0, size: int = 1, port: int | None = None) -> Iterator[dist.World]:
    """Joins a process group as a process of the launcher does; leaves it afterwards."""
    place = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port or free_port()),
    }
    with pytest.MonkeyPatch.context() as environment:
        for name, value in place.items():
            environment.setenv(name, value)
        try:
            with dist.join() as joined:
                yield joined
        finally:
            if torch.distributed.is_initialized():  # after an error, `join` leaves it
                torch.distributed.destroy_process_group()
