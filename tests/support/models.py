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
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from drpo_cli import dist
from drpo_cli.experience import Experience
from drpo_cli.types import Group, Prompt, Rollout

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
CHARACTERS = "0123456789+-*/=() abcdefghijklmnopqrstuvwxyz?.,:\n"
VOCABULARY = 64  # a multiple that every engine's kernels accept
EOS_ID = 2
SPREAD = 0.08  # of every weight matrix: enough that log-probs are not flat
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": EOS_ID,
}
DERIVED = ("qwen2", "phi3")  # their configs derive head_dim from the other sizes
LINEAR: dict[str, Any] = {  # attention, and layers of linear attention with a convolution
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("Qwen3", {"tie_word_embeddings": True}),
    "llama": ("Llama", {"tie_word_embeddings": False}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": False}),
    "mistral": ("Mistral", {"tie_word_embeddings": False, "sliding_window": None}),
    "phi3": ("Phi3", {"tie_word_embeddings": False, "resid_pdrop": 0.5, "embd_pdrop": 0.5}),
    "gemma2": ("Gemma2", {"attn_logit_softcapping": 2.0, "sliding_window": 8}),
    "gemma3": (
        "Gemma3",
        {
            "tie_word_embeddings": True,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "qwen3_moe": (
        "Qwen3Moe",
        {
            "tie_word_embeddings": False,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "decoder_sparse_step": 1,
            "norm_topk_prob": True,
        },
    ),
    "gpt_oss": (  # with sinks
        "GptOss",
        {
            "tie_word_embeddings": False,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "gemma4": (  # heads of two sizes; the last two layers take the keys of the first two
        "Gemma4",
        {
            "num_hidden_layers": 4,
            "head_dim": 16,
            "global_head_dim": 32,
            "num_global_key_value_heads": 1,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 16,
            "vocab_size_per_layer_input": VOCABULARY,
        },
    ),
    "gemma3n": (  # it changes products in place
        "Gemma3n",
        {
            "num_hidden_layers": 4,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 16,
            "vocab_size_per_layer_input": VOCABULARY,
            "laurel_rank": 8,
            "activation_sparsity_pattern": [0.0] * 4,
        },
    ),
    "deepseek_v3": (  # latent attention: heads of 24 for queries and keys, of 16 for values
        "DeepseekV3",
        {
            "tie_word_embeddings": False,
            "num_key_value_heads": 4,
            "q_lora_rank": 32,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 16,
            "head_dim": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
        },
    ),
    "smollm3": ("SmolLM3", {"no_rope_layers": [1, 0]}),
    "cohere2": (
        "Cohere2",
        {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "ministral3": (  # queries grow with their position
        "Ministral3",
        {
            "rope_parameters": {
                **{"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0},
                **{"original_max_position_embeddings": 16, "llama_4_scaling_beta": 0.5},
            }
        },
    ),
    "glm4_moe": (  # with a buffer that a checkpoint has
        "Glm4Moe",
        {
            "tie_word_embeddings": False,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "first_k_dense_replace": 1,
        },
    ),
    # from here on, models whose sequences cannot be packed
    "qwen3_next": ("Qwen3Next", {**LINEAR, "num_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_5": ("Qwen3_5", {**LINEAR, "tie_word_embeddings": True}),
    "lfm2": ("Lfm2", {"layer_types": ["conv", "full_attention"]}),
    "falcon_h1": (  # attention and a state-space model in each layer
        "FalconH1",
        {
            "mamba_d_ssm": 64,
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
            "mamba_d_state": 8,
            "mamba_chunk_size": 8,
        },
    ),
    "nemotron_h": (
        "NemotronH",
        {
            "layers_block_type": ["mamba", "attention", "mlp"],
            "mamba_num_heads": 4,
            "mamba_head_dim": 16,
            "ssm_state_size": 8,
            "n_groups": 2,
            "chunk_size": 8,
        },
    ),
    "stablelm": ("StableLm", {"tie_word_embeddings": False}),  # its attention gets no keywords
}


def tiny_model(folder: Path, kind: str = "qwen3", seed: int = 0, **overrides: Any) -> Path:
    """Writes a random model of an architecture and its tokenizer; `overrides` go to its config.

    The same arguments give the same weights. Returns `folder`.
    """
    name, own = KINDS[kind]
    sizes = {key: size for key, size in SIZES.items() if key != "head_dim" or kind not in DERIVED}
    config_class = getattr(transformers, f"{name}TextConfig", None) or getattr(
        transformers, f"{name}Config"
    )
    config = config_class(**{**sizes, **own, **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lm = getattr(transformers, f"{name}ForCausalLM")(config)
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

    return replace(
        Experience.of(groups),
        advantage_T=column(row.advantages for row in rows),
        loss_mask_T=column(row.mask for row in rows).bool(),
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
