"""Attention over a packed row, as attention functions of transformers. None holds the scores.

varlen   One call of FlashAttention's kernel for sequences of any lengths, which is part of torch.
         A response that shares its prompt is a sequence whose keys are those of the prompt and its
         own; causality and windows are aligned at its end. Sinks too. Bfloat16 on a GPU.
buckets  Spans of similar length are gathered into a padded batch for the fused kernel that torch
         has for the device. Responses that share a prompt see it through a mask of
         [response, prompt + response]. Soft caps and sinks, which no kernel here has, are computed
         in tiles of plain products (`tiles`), and windows, of which kernels compute all that they
         hide.

On a GPU the kernels that take a mask, or float32, take no key heads that queries share: with them
torch would use its kernel that holds all scores. (cuDNN's does take them, but vLLM turns it off in
the whole process.) So the key heads are repeated there.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.attention.varlen import AuxRequest, varlen_attn
from transformers import AttentionInterface

from drpo_cli import devices
from drpo_cli.errors import UserError
from drpo_cli.trainer import tiles
from drpo_cli.trainer.layout import Bucket, Layout, Ragged
from drpo_cli.trainer.rows import take

NAMES = {
    ("buckets", "cpu"): "drpo_buckets",
    ("buckets", "cuda"): "drpo_buckets_repeated",
    ("varlen", "cuda"): "drpo_varlen",
}
"""The name in transformers of each kind of attention on each kind of device."""
BUCKETS = NAMES["buckets", "cpu"]
VARLEN = NAMES["varlen", "cuda"]
COMPUTED = {"scaling", "sliding_window", "softcap", "s_aux", "is_causal", "dropout"}
"""Options of an attention function that change what it computes, and are known here."""
LATER_TOKENS = "attention to later tokens"
WITHOUT_EFFECT = {
    *("position_ids", "cache_position", "use_cache", "past_key_values", "deterministic"),
    *("output_attentions", "output_hidden_states", "output_router_logits"),
}
"""Options that change nothing here, although layers pass them."""
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
    """query [1, H, T, Dh], key [1, Hkv, T, Dh], value [1, Hkv, T, Dv] → [1, T, H, Dv].

    What the kernel does not take (soft caps, heads of some sizes) goes through buckets. Raises
    UserError as `buckets`.
    """
    head = max(query.shape[-1], value.shape[-1])
    if head > LARGEST_HEAD or head % HEAD_MULTIPLE or options.get("softcap") is not None:
        return buckets(module, query, key, value, attention_mask, layout, repeat=True, **options)
    call = _call(module, query, key, value, attention_mask, layout, options)
    spans, width = call.layout.ragged, value.shape[-1]
    q, k, v = (part[0].transpose(0, 1) for part in _one_size(query, key, value))
    if spans.key_M is not None:
        k, v = _take(k, spans.key_M), _take(v, spans.key_M)
    window = (-1 if call.window is None else call.window - 1, 0)
    if call.sink_H is None:
        out: Any = _kernel(q, k, v, spans, call.scale, window)
    else:
        out = _VarlenWithSinks.apply(q, k, v, call.sink_H, spans, call.scale, window)  # type: ignore[no-untyped-call]
    return out[None, ..., :width], None


def _kernel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spans: Ragged,
    scale: float,
    window: tuple[int, int],
    **more: Any,
) -> Any:
    return varlen_attn(
        q,
        k,
        v,
        spans.query_ends,
        spans.key_ends,
        spans.longest_query,
        spans.longest_key,
        scale=scale,
        window_size=window,
        **SHARED_KEYS,
        **more,
    )


class _VarlenWithSinks(torch.autograd.Function):
    """FlashAttention's kernel, with a sink per head: a score of every query, without a value.

    A sink makes the softmax's sum larger: lse becomes log(exp lse + exp s), and the output shrinks.
    The kernel's backward pass takes output and lse as arguments, and with these two it gives the
    gradients of this attention, as its equations hold for any share of the softmax (see `tiles`).
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sink_H: Tensor,
        spans: Ragged,
        scale: float,
        window: tuple[int, int],
    ) -> Tensor:
        plain, kernel_lse = _kernel(q, k, v, spans, scale, window, return_aux=AuxRequest(lse=True))
        lse = torch.logaddexp(kernel_lse, sink_H.to(kernel_lse.dtype)[:, None])  # [H, T]
        out: Tensor = (plain * (kernel_lse - lse).exp().T[..., None]).to(q.dtype)
        ctx.save_for_backward(q, k, v, sink_H, out, lse)
        ctx.rest = spans, scale, window
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, sink_H, out, lse = ctx.saved_tensors
        spans, scale, window = ctx.rest
        grads = torch.ops.torch_attn._varlen_attn_backward(
            grad.contiguous(),
            q,
            k,
            v,
            out,
            lse,
            spans.query_ends,
            spans.key_ends,
            spans.longest_query,
            spans.longest_key,
            window == (-1, 0),
            torch.zeros(2, dtype=torch.uint64, device=q.device),  # the state of no dropout
            scale,
            list(window),
        )
        dot = (grad.to(lse.dtype) * out).sum(-1).T
        return *grads, tiles.sink_gradient(sink_H, lse[None], dot[None]), None, None, None


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
    """query [1, H, T, Dh], key [1, Hkv, T, Dh], value [1, Hkv, T, Dv] → [1, T, H, Dv].

    Windows, soft caps and sinks are computed in tiles, all else by torch's fused kernel; with
    `repeat`, it gets a copy of the key head for every query head. Raises UserError for a model
    whose attention has terms that nothing here computes.
    """
    call = _call(module, query, key, value, attention_mask, layout, options)
    spans, width = call.layout.padded, value.shape[-1]
    query_shapes = [(bucket.spans, bucket.queries) for bucket in spans.buckets]
    key_shapes = [(bucket.spans, bucket.keys) for bucket in spans.buckets]
    batches = zip(
        _batches(query, spans.query_N, query_shapes),
        _batches(key, spans.key_M, key_shapes),
        _batches(value, spans.key_M, key_shapes),
        strict=True,
    )
    outputs = []
    for place, (q, k, v) in enumerate(batches):
        bucket = spans.buckets[place]
        if call.in_tiles(bucket):
            terms = call.window, call.softcap, call.sink_H
            out = tiles.attend(q, k, v, bucket.context, bucket.first_B, call.scale, *terms)
        else:
            q, k, v = _one_size(q, k, v)
            if repeat:
                k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
            mask = spans.mask(place, q)
            out = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                is_causal=mask is None,
                scale=call.scale,
                enable_gqa=not repeat,
            )[..., :width]
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    return _take(torch.cat(outputs), spans.inverse_I)[None], None


class _Call(NamedTuple):
    """What an attention function is asked for; `sink_H` is a score of every query, no value."""

    layout: Layout
    scale: float
    window: int | None
    softcap: float | None
    sink_H: Tensor | None

    def in_tiles(self, bucket: Bucket) -> bool:
        """Whether no fused kernel computes this, or only together with all that a window hides."""
        narrow = self.window is not None and self.window < bucket.keys
        return narrow or self.softcap is not None or self.sink_H is not None


def _call(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None,
    options: dict[str, Any],
) -> _Call:
    given = {name: option for name, option in options.items() if option is not None}
    missing = sorted(given.keys() - COMPUTED - WITHOUT_EFFECT)
    if layout is None:
        missing.append("keyword arguments that its layers do not pass to attention")
    if attention_mask is not None:
        missing.append("a mask of its own")
    if key.shape[2] != query.shape[2] or value.shape[2] != query.shape[2]:
        missing.append("keys that are not those of the queries' tokens")
    if not given.get("is_causal", getattr(module, "is_causal", True)):
        missing.append(LATER_TOKENS)
    if given.get("dropout"):
        missing.append("dropout")
    if missing or layout is None:
        raise UserError(
            f"model: {type(module).__name__} needs {', '.join(missing)}, which packed training "
            f"does not support",
            'set train.layout = "padded"',
        )
    scale = given.get("scaling", query.shape[-1] ** -0.5)
    terms = (given.get(name) for name in ("sliding_window", "softcap", "s_aux"))
    return _Call(layout, scale, *terms)


def _one_size(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three with heads of one size; fused kernels take no others. Zeros change no product."""
    head = max(query.shape[-1], value.shape[-1])
    if query.shape[-1] == value.shape[-1]:
        return query, key, value
    query, key, value = (F.pad(part, (0, head - part.shape[-1])) for part in (query, key, value))
    return query, key, value


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


AttentionInterface.register(BUCKETS, buckets)
AttentionInterface.register(NAMES["buckets", "cuda"], partial(buckets, repeat=True))
AttentionInterface.register(VARLEN, varlen)
