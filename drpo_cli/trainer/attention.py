"""Attention over a packed row, as a transformers attention function.

Each bucket of like-long spans is gathered into a right-padded batch, so the fused causal kernel of
any device serves it and a `[tokens, tokens]` mask never exists. Responses that share a prompt see
it through a mask of the size of one of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface

from drpo_cli.errors import UserError
from drpo_cli.trainer.layout import Layout

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
        what = ", ".join(missing) or "keyword arguments that its layers do not pass on"
        raise UserError(
            f"model: {type(module).__name__} needs {what}, which packed training does not have; "
            f"train a model of another architecture"
        )
    scale, window = options.get("scaling"), options.get("sliding_window")
    heads = query.shape[1] // key.shape[1]
    outputs = []
    for bucket in layout.buckets:
        q = query[0, :, bucket.query_BL].transpose(0, 1)
        k, v = (part[0, :, bucket.key_BK].transpose(0, 1) for part in (key, value))
        if heads > 1:
            k, v = k.repeat_interleave(heads, dim=1), v.repeat_interleave(heads, dim=1)
        mask = _mask(q.shape[2], k.shape[2], window, q.device)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale
        )
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[layout.inverse_T][None], None


def _mask(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor | None:
    """Who sees whom [queries, keys], the queries being the last keys; None for plain causality."""
    if queries == keys and (window is None or keys <= window):
        return None
    place = torch.arange(keys, device=device)
    back = place[keys - queries :, None] - place[None, :]
    seen = back >= 0
    return seen if window is None else seen & (back < window)


AttentionInterface.register(NAME, packed_attention)
