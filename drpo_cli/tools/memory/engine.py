"""The rollout engine's share: weights, KV cache, and what it needs or keeps besides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from drpo_cli.tools.memory.device import GIB, Device

BLOCK = 16  # tokens of a KV block, in vLLM
FLOAT32 = 4
# Captured graphs hold a memory pool of their own, which nothing in a spec tells. An assumption.
GRAPHS = 1 * GIB


@dataclass(frozen=True)
class Engine:
    """Bytes on one device.

    weights   the model in the engine's dtype, and copies that the engine makes of parts of it
    working   activations of the largest batch that vLLM plans for, the sampler's logits, graphs
    cache     what is left for keys and values
    asleep    what is still there while it sleeps; None where it never does
    reload    what a reload of the weights takes besides them
    """

    weights: int
    working: int
    cache: int
    asleep: int | None
    reload: int


def cache_bytes(config: Any, width: int, tokens: int) -> int:
    """Keys and values of one sequence, `width` bytes a number; windows keep no more than theirs."""
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    count = text.num_hidden_layers
    default = "full_attention" if window is None else "sliding_attention"
    kinds = getattr(text, "layer_types", None) or [default] * count
    total = 0
    for kind in kinds:
        kept = min(tokens, window) if kind == "sliding_attention" and window else tokens
        total += math.ceil(kept / BLOCK) * BLOCK
    return total * width * _numbers_a_token(text)


def _numbers_a_token(text: Any) -> int:
    """Numbers that one token leaves in the cache of one layer."""
    if getattr(text, "kv_lora_rank", None):  # latent attention keeps one vector for all heads
        return int(text.kv_lora_rank + text.qk_rope_head_dim)
    heads, queries = getattr(text, "num_key_value_heads", None), text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // queries
    return int(2 * (heads or queries) * size)


def vllm(options: Any, config: Any, weights: int, width: int, device: Device) -> Engine:
    """A vLLM engine with these options; `weights` in bytes at `width` bytes a number.

    On a GPU it takes its fraction of the memory whole: the cache is what the rest leaves of it.
    """
    text = config.get_text_config()
    logits = options.max_sequences * text.vocab_size * FLOAT32
    if not device.cuda:
        # a tied head is packed apart from the embedding, and the sampler's buffers are small
        head = text.vocab_size * text.hidden_size * width if config.tie_word_embeddings else 0
        return Engine(weights + head, 3 * logits, options.cpu_cache_gib * GIB, None, 0)
    graphs = 0 if options.eager else GRAPHS
    working = batch_tokens(device) * _widest(text) * width + 3 * logits + graphs
    cache = int(options.gpu_memory_fraction * device.bytes) - weights - working
    # vLLM's own test of sleeping says so of the logits' buffer, and that graphs stay
    asleep = logits + graphs if options.sleep else None
    layer = weights // text.num_hidden_layers
    return Engine(weights, working, max(0, cache), asleep, layer)


def batch_tokens(device: Device) -> int:
    """Tokens that vLLM 0.32 computes at once, and plans its memory for, when it is not told."""
    large = device.bytes >= 70 * GIB and not device.name.startswith("a100")
    return 16384 if large else 8192  # EngineArgs.get_batch_defaults


def _widest(text: Any) -> int:
    """Numbers a token has at the widest place of a layer: the MLP's, or attention's."""
    inner = getattr(text, "intermediate_size", None) or text.hidden_size
    if getattr(text, "num_experts_per_tok", None) and getattr(text, "moe_intermediate_size", None):
        inner = max(inner, text.num_experts_per_tok * text.moe_intermediate_size)
    queries = text.num_attention_heads * (
        getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    )
    return int(2 * text.hidden_size + max(3 * inner, 3 * queries))


def transformers(
    options: Any, config: Any, weights: int, width: int, tokens: tuple[int, int], rows: int
) -> Engine:
    """Plain `generate`: its own copy of the model, and a batch's cache and logits at every token.

    `tokens` are those of a whole sequence and of its response, `rows` the sequences of a device.
    """
    total, response = tokens
    rows = min(rows, options.max_sequences)
    text = config.get_text_config()
    cache = rows * cache_bytes(config, width, total)
    cache += cache // text.num_hidden_layers  # a layer's cache is copied to become longer
    logits = rows * text.vocab_size * FLOAT32
    return Engine(weights, (response + 3) * logits, cache, None, 0)
