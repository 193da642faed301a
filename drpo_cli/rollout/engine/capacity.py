"""The KV cache of an engine: what a sequence takes of it, and whether the longest one fits."""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from typing import Any

from drpo_cli.architecture import by_layer
from drpo_cli.errors import UserError

GIB = 2**30
BLOCK = 16  # tokens per block of vLLM's KV cache
CPU_BLOCK = 32
"""Tokens per block on a CPU, the fewest that its attention is made for. vLLM's own 128 would let no
responses share a shorter prompt: only whole blocks are shared."""
WIDTH = {"float32": 4, "bfloat16": 2}


def cache_bytes(config: Any, width: int, tokens: int, ranks: int = 1) -> int:
    """KV cache of one sequence on one rank, at `width` bytes per number.

    A window limits the tokens of its layers. `ranks` share one engine: each has a part of the key
    heads, and repeats one where there are fewer heads than ranks. Only layers of attention count:
    the state of others does not grow with the sequence.
    """
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    default = "full_attention" if window is None else "sliding_attention"
    kinds = getattr(text, "layer_types", None) or [default] * text.num_hidden_layers
    shared = getattr(text, "num_kv_shared_layers", None) or 0
    total = 0
    layers = list(zip(kinds, by_layer(text), strict=True))
    for kind, layer in layers[: len(layers) - shared]:
        if "attention" in kind and "linear" not in kind:
            kept = min(tokens, window) if kind == "sliding_attention" and window else tokens
            total += math.ceil(kept / BLOCK) * BLOCK * _numbers_per_token(layer, ranks)
    return total * width


def _numbers_per_token(layer: Any, ranks: int) -> int:
    """Numbers that the cache of one layer stores per token on one rank."""
    if getattr(layer, "kv_lora_rank", None):  # latent attention stores one vector for all heads
        return int(layer.kv_lora_rank + layer.qk_rope_head_dim)
    heads, queries = getattr(layer, "num_key_value_heads", None), layer.num_attention_heads
    size = getattr(layer, "head_dim", None) or layer.hidden_size // queries
    return int(2 * max(1, (heads or queries) // ranks) * size)


def longest_sequence(config: Any, width: int, cache: int, most: int, ranks: int = 1) -> int:
    """The longest sequence, of at most `most` tokens, that a cache of so many bytes holds.

    In whole blocks of vLLM on a CPU, which are the largest.
    """
    tokens = range(1, most + 1)
    fit = bisect_right(tokens, cache, key=lambda count: cache_bytes(config, width, count, ranks))
    return fit // CPU_BLOCK * CPU_BLOCK


def require_cache(options: Any, config: Any, dtype: str, context: int, ranks: int) -> None:
    """Raises UserError if the cache on a CPU is too small for one sequence of `context` tokens.

    An engine that manages its cache in blocks does not start then.
    """
    width, cache = WIDTH[dtype], options.cpu_cache_gib * GIB
    shared = options.tensor_parallel
    needed = cache_bytes(config, width, context, shared)
    if needed <= cache:
        return
    text = config.get_text_config()
    raised = math.ceil(needed / GIB)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    raise too_long(
        options,
        context,
        f"{needed / GIB:,.1f} GiB ({text.num_hidden_layers} layers, "
        f"{_numbers_per_token(text, shared):,} numbers of {width} bytes per token in each)",
        f"rollout.cpu_cache_gib is {options.cpu_cache_gib}",
        longest_sequence(config, width, cache, context, shared),
        f"rollout.cpu_cache_gib = {raised}" if raised * GIB * ranks < memory else None,
    )


def too_long(
    options: Any, context: int, needed: str, available: str, fits: int, larger: str | None
) -> UserError:
    """What is wrong when a sequence of `context` tokens does not fit into the cache, and its cure.

    fits    tokens that do fit
    larger  the setting that makes the cache large enough, if this machine has the memory
    """
    origin = "" if options.context_length else ", the model's limit, as it is not set"
    cures = [f"set {larger}"] if larger else []
    if fits > options.max_new_tokens:
        cures = [f"set rollout.context_length = {fits}, or less", *cures]
    return UserError(
        f"rollout.context_length is {context:,} tokens{origin}: one such sequence takes {needed} "
        f"of KV cache, and {available}",
        ", or ".join(cures) or "use a smaller model, or a machine with more memory",
    )
