"""A stand-in on the CPU for FlashAttention's kernel of sequences of any lengths.

It is registered for the operator that torch calls, so that all else is real: the arguments that the
trainer gives, torch's wrapper, and what it saves for the backward pass. It refuses what the kernel
refuses (`mha_varlen_fwd` in torch's `flash_api.cpp`), and aligns causality at the end of the keys,
as the kernel does (github.com/pytorch/pytorch/pull/193630).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.attention import varlen

Ends = list[tuple[slice, slice]]
"""The queries and the keys of each sequence."""
HALF = (torch.bfloat16, torch.float16)


def use_on_cpu(any_dtype: bool = True) -> None:
    """Registers the stand-in; `any_dtype` lets it compute in float32, to compare closely."""
    dtypes = (*HALF, torch.float32, torch.float64) if any_dtype else HALF

    def forward(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor | None,
        max_q: int,
        max_k: int,
        is_causal: bool = False,
        scale: float | None = None,
        window_size: list[int] | None = None,
        enable_gqa: bool = False,
        seqused_k: Tensor | None = None,
        block_table: Tensor | None = None,
        num_splits: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        assert cu_seq_k is not None and window_size is not None
        _require(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, dtypes)
        out, lse = _attend(query, key, value, _ends(cu_seq_q, cu_seq_k), scale, window_size)
        return out, lse, torch.zeros(2, dtype=torch.uint64)

    def backward(
        grad_out: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        is_causal: bool,
        rng_state: Tensor,
        scale: float | None = None,
        window_size: list[int] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        assert window_size is not None and grad_out.stride(-1) == 1
        assert out.shape == query.shape and lse.shape == (query.shape[1], len(query))
        assert lse.is_contiguous() and lse.dtype == torch.promote_types(out.dtype, torch.float32)
        _require(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, dtypes)
        ends = _ends(cu_seq_q, cu_seq_k)
        return _gradients(grad_out, query, key, value, out, lse, ends, scale, window_size)

    varlen._varlen_attn.register_kernel("cpu")(forward)
    varlen._varlen_attn_backward.register_kernel("cpu")(backward)


def _require(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_ends: Tensor,
    key_ends: Tensor,
    longest_query: int,
    longest_key: int,
    dtypes: tuple[torch.dtype, ...],
) -> None:
    for part in (query, key, value):
        assert part.dtype in dtypes and part.stride(-1) == 1 and part.dim() == 3
    assert key.shape == value.shape and not query.shape[1] % key.shape[1]
    assert query.shape[2] == key.shape[2] <= 256 and not query.shape[2] % 8
    for ends, tokens, longest in ((query_ends, query, longest_query), (key_ends, key, longest_key)):
        assert ends.dtype == torch.int32 and ends.is_contiguous() and ends.device == query.device
        assert int(ends[0]) == 0 and int(ends[-1]) == len(tokens)
        assert int(ends.diff().max()) == longest


def _attend(
    query: Tensor, key: Tensor, value: Tensor, ends: Ends, scale: float | None, window: list[int]
) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(query)
    wide = torch.promote_types(query.dtype, torch.float32)
    lse = query.new_empty(query.shape[1], len(query), dtype=wide)
    for queries, keys in ends:
        _, _, v, scores, _ = _scores(query[queries], key[keys], value[keys], scale, window)
        out[queries] = (scores.softmax(-1) @ v).transpose(0, 1)
        lse[:, queries] = scores.to(wide).logsumexp(-1)
    return out, lse


def _gradients(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    ends: Ends,
    scale: float | None,
    window: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel's equations: the softmax from the given lse, and the sum of ∂o·o."""
    grads = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    for queries, keys in ends:
        q, k, v, scores, factor = _scores(query[queries], key[keys], value[keys], scale, window)
        shares = (scores - lse[:, queries, None]).exp().to(query.dtype)
        grad = grad_out[queries].transpose(0, 1)
        dot = (grad * out[queries].transpose(0, 1)).sum(-1, keepdim=True)
        by_score = shares * (grad @ v.transpose(1, 2) - dot) * factor
        grads[0][queries] = (by_score @ k).transpose(0, 1)
        by_key, by_value = by_score.transpose(1, 2) @ q, shares.transpose(1, 2) @ grad
        for found, each in zip(grads[1:], (by_key, by_value), strict=True):
            found[keys] = each.unflatten(0, (key.shape[1], -1)).sum(1).transpose(0, 1)
    return grads


def _scores(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: list[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """One sequence's query, key and value by head, its scores (hidden: −∞), and their factor."""
    copies = query.shape[1] // key.shape[1]
    k, v = (part.repeat_interleave(copies, dim=1).transpose(0, 1) for part in (key, value))
    q, factor = query.transpose(0, 1), query.shape[-1] ** -0.5 if scale is None else scale
    last = torch.arange(q.shape[1])[:, None] + k.shape[1] - q.shape[1]
    back = last - torch.arange(k.shape[1])
    hidden = torch.zeros_like(back, dtype=torch.bool)
    for side, distance in zip(window, (back, -back), strict=True):
        hidden |= (distance > side) & (side >= 0)
    scores = (q @ k.transpose(1, 2) * factor).masked_fill(hidden, -torch.inf)
    return q, k, v, scores, factor


def _ends(query_ends: Tensor, key_ends: Tensor) -> Ends:
    queries, keys = (pairwise(ends.tolist()) for ends in (query_ends, key_ends))
    return [(slice(*q), slice(*k)) for q, k in zip(queries, keys, strict=True)]
