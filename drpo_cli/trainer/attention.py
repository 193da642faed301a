"""Attention over a packed row, as a transformers attention function.

Each bucket of spans of similar length is gathered into a padded batch for the fused kernel of the
device, so a `[tokens, tokens]` mask never exists. Responses that share a prompt see it through a
mask of [response, prompt + response].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface

from drpo_cli.errors import UserError
from drpo_cli.trainer.layout import Layout
from drpo_cli.trainer.rows import take

NAME = "drpo_packed"
UNSUPPORTED = ("softcap", "s_aux", "position_bias")


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """query [1, H, T, Dh], key and value [1, Hkv, T, Dh] → [1, T, H, Dh].

    Raises UserError for a model whose attention has terms this function lacks.
    """
    missing = [name for name in UNSUPPORTED if options.get(name) is not None]
    if layout is None or missing:
        what = ", ".join(missing) or "keyword arguments that its layers do not pass to attention"
        raise UserError(
            f"model: {type(module).__name__} needs {what}, which packed training does not support; "
            f"train a model of another architecture"
        )
    window, scale = options.get("sliding_window"), options.get("scaling")
    query_shapes = [(bucket.spans, bucket.queries) for bucket in layout.buckets]
    key_shapes = [(bucket.spans, bucket.keys) for bucket in layout.buckets]
    batches = zip(
        _batches(query, layout.query_N, query_shapes),
        _batches(key, layout.key_M, key_shapes),
        _batches(value, layout.key_M, key_shapes),
        strict=True,
    )
    outputs = []
    for bucket, (q, k, v) in enumerate(batches):
        mask = layout.mask(bucket, window, q)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
        )
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    return _take(torch.cat(outputs), layout.inverse_I)[None], None


def _batches(part: Tensor, index_N: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """[1, H, T, Dh] as a batch [spans, H, tokens, Dh] for each bucket, of shape [spans, tokens]."""
    taken = torch.split(_take(part[0].transpose(0, 1), index_N), [b * t for b, t in shapes])
    return [
        own.view(*shape, *own.shape[1:]).transpose(1, 2)
        for own, shape in zip(taken, shapes, strict=True)
    ]


def _take(x_IHD: Tensor, index_N: Tensor) -> Tensor:
    """Row `index_N[n]` of x as row n, [N, H, Dh]."""
    return take(x_IHD.flatten(1), index_N).view(-1, *x_IHD.shape[1:])


AttentionInterface.register(NAME, packed_attention)
