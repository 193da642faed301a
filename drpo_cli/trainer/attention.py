"""Attention over a packed row, as attention functions of transformers. None holds the scores.

varlen   One call of FlashAttention's kernel for sequences of any lengths, which is part of torch.
         A response that shares its prompt is a sequence whose keys are those of the prompt and its
         own; causality and windows are aligned at its end. Bfloat16 on a GPU.
buckets  Spans of similar length are gathered into a padded batch for the fused kernel that torch
         has for the device. Responses that share a prompt see it through a mask of
         [response, prompt + response].

On a GPU the kernels that take a mask, or float32, take no key heads that queries share: with them
torch would use its kernel that holds all scores. (cuDNN's does take them, but vLLM turns it off in
the whole process.) So the key heads are repeated there.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from drpo_cli import devices
from drpo_cli.errors import UserError
from drpo_cli.trainer.layout import Layout
from drpo_cli.trainer.rows import take

NAMES = {
    ("buckets", "cpu"): "drpo_buckets",
    ("buckets", "cuda"): "drpo_buckets_repeated",
    ("varlen", "cuda"): "drpo_varlen",
}
"""The name in transformers of each kind of attention on each kind of device."""
BUCKETS = NAMES["buckets", "cpu"]
VARLEN = NAMES["varlen", "cuda"]
UNSUPPORTED = ("softcap", "s_aux", "position_bias")
LARGEST_HEAD, HEAD_MULTIPLE, OLDEST_GPU = 256, 8, (8, 0)  # what FlashAttention takes
# since torch 2.12 the wrapper of the kernel asks whether key heads are shared
ASKED = "enable_gqa" in inspect.signature(varlen_attn).parameters
SHARED_KEYS: dict[str, Any] = {"enable_gqa": True} if ASKED else {}


def name_for(kind: str, device: str) -> str:
    """The name in transformers of a kind of attention on a kind of device.

    Raises UserError where there is none.
    """
    if kind not in devices.ATTENTION[device]:
        raise UserError(
            f"train.attention: {kind!r} does not run on a {devices.NAMES[device]}",
            'set train.attention = "buckets"',
        )
    return NAMES[kind, device]


def kinds_on(device: torch.device) -> list[str]:
    """The kinds of attention that run on this device."""
    old = device.type == "cuda" and torch.cuda.get_device_capability(device) < OLDEST_GPU
    return [kind for kind in devices.ATTENTION[device.type] if not (old and kind == "varlen")]


def varlen(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """query [1, H, T, Dh], key and value [1, Hkv, T, Dh] → [1, T, H, Dh].

    Heads of a size that the kernel does not take go through buckets. Raises UserError as `buckets`.
    """
    head = query.shape[-1]
    if head > LARGEST_HEAD or head % HEAD_MULTIPLE:
        return buckets(module, query, key, value, attention_mask, layout, repeat=True, **options)
    spans, window = _supported(module, layout, options).ragged, options.get("sliding_window")
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    if spans.key_M is not None:
        k, v = _take(k, spans.key_M), _take(v, spans.key_M)
    out: Any = varlen_attn(
        q,
        k,
        v,
        spans.query_ends,
        spans.key_ends,
        spans.longest_query,
        spans.longest_key,
        scale=options.get("scaling"),
        window_size=(-1 if window is None else window - 1, 0),
        **SHARED_KEYS,
    )
    return out[None], None


def buckets(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None = None,
    repeat: bool = False,
    **options: Any,
) -> tuple[Tensor, None]:
    """query [1, H, T, Dh], key and value [1, Hkv, T, Dh] → [1, T, H, Dh].

    With `repeat`, every query head gets its own copy of its key head. Raises UserError for a model
    whose attention has terms that no kernel here computes.
    """
    spans, window = _supported(module, layout, options).padded, options.get("sliding_window")
    copies = query.shape[1] // key.shape[1] if repeat else 1
    query_shapes = [(bucket.spans, bucket.queries) for bucket in spans.buckets]
    key_shapes = [(bucket.spans, bucket.keys) for bucket in spans.buckets]
    batches = zip(
        _batches(query, spans.query_N, query_shapes),
        _batches(key, spans.key_M, key_shapes, copies),
        _batches(value, spans.key_M, key_shapes, copies),
        strict=True,
    )
    outputs = []
    for bucket, (q, k, v) in enumerate(batches):
        mask = spans.mask(bucket, window, q)
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None,
            scale=options.get("scaling"),
            enable_gqa=not repeat,
        )
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    return _take(torch.cat(outputs), spans.inverse_I)[None], None


def _supported(module: torch.nn.Module, layout: Layout | None, options: dict[str, Any]) -> Layout:
    missing = [name for name in UNSUPPORTED if options.get(name) is not None]
    if layout is None or missing:
        what = ", ".join(missing) or "keyword arguments that its layers do not pass to attention"
        raise UserError(
            f"model: {type(module).__name__} needs {what}, which packed training does not support; "
            f"train a model of another architecture"
        )
    return layout


def _batches(
    part: Tensor, index_N: Tensor, shapes: Sequence[tuple[int, int]], copies: int = 1
) -> list[Tensor]:
    """[1, H, T, Dh] as a batch [spans, H, tokens, Dh] for each bucket, of shape [spans, tokens]."""
    taken = torch.split(_take(part[0].transpose(0, 1), index_N), [b * t for b, t in shapes])
    batches = [
        own.view(*shape, *own.shape[1:]).transpose(1, 2)
        for own, shape in zip(taken, shapes, strict=True)
    ]
    if copies == 1:
        return batches
    return [batch.repeat_interleave(copies, dim=1) for batch in batches]


def _take(x_IHD: Tensor, index_N: Tensor) -> Tensor:
    """Row `index_N[n]` of x as row n, [N, H, Dh]."""
    return take(x_IHD.flatten(1), index_N).view(-1, *x_IHD.shape[1:])


AttentionInterface.register(BUCKETS, buckets)
AttentionInterface.register(NAMES["buckets", "cuda"], partial(buckets, repeat=True))
AttentionInterface.register(VARLEN, varlen)
