"""Attention with soft caps and sinks, in tiles: plain products on any device.

A tile is the scores of some queries for the keys that they see. The backward pass computes it
again, as FlashAttention does (https://arxiv.org/abs/2205.14135), so all scores are never held.
With scores z = softcap · tanh(scale · q·k / softcap), and a sink s that gets a share of the
softmax but has no value:

    lse = log(Σ exp z + exp s),    p = exp(z − lse),    o = Σ p v
    ∂z = p (∂o·v − ∂o·o),          ∂s = −Σ exp(s − lse) ∂o·o

Tiles have [N, G, R, K] scores: N pairs of a span and a key head, G query heads of it, R queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from drpo_cli.products import multiply, wide

TILE = 2**22
"""Scores of a tile, about: 16 MiB in float32."""
ROWS = 128
"""Queries of a tile, at most: half of them are hidden on the diagonal."""


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    context: int,
    first_B: Tensor | None,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sink_H: Tensor | None = None,
) -> Tensor:
    """query [B, H, L, Dh], key [B, Hkv, K, Dh], value [B, Hkv, K, Dv] → [B, H, L, Dv].

    The spans lie as in a `Bucket`: query i is at key place context + i, and sees the places from
    `first_B` of its span to its own, of these the last `window`.
    """
    out: Tensor
    out, _ = _attend(query, key, value, sink_H, first_B, context, window, scale, softcap)
    return out


class _Tile(NamedTuple):
    heads: slice  # of the N pairs of a span and a key head
    rows: slice
    keys: slice


class _Job(NamedTuple):
    """The inputs of a bucket, by key head: q [N, G, L, Dh], k [N, K, Dh], v [N, K, Dv]."""

    q: Tensor
    k: Tensor
    v: Tensor
    sink: Tensor | None
    """[N, G, 1], float32 or wider."""
    first: Tensor | None
    """[N]"""
    context: int
    window: int | None
    scale: float
    softcap: float | None

    def tiles(self) -> Iterator[_Tile]:
        """Covers all queries, each with all keys that it sees."""
        pairs, group, queries, _ = self.q.shape
        keys = self.context + queries
        rows = max(1, min(ROWS, queries, TILE // (group * min(keys, ROWS + (self.window or keys)))))
        for at in range(0, queries, rows):
            end = min(at + rows, queries)
            front = 0 if self.window is None else max(0, self.context + at - self.window + 1)
            seen = slice(front, self.context + end)
            some = max(1, TILE // (group * (end - at) * (seen.stop - seen.start)))
            for pair in range(0, pairs, some):
                yield _Tile(slice(pair, pair + some), slice(at, end), seen)

    def scores(self, tile: _Tile) -> Tensor:
        """The scores of a tile, with the hidden ones."""
        q = self.q[tile.heads, :, tile.rows]
        z = multiply(q.flatten(1, 2), self.k[tile.heads, tile.keys].mT).view(*q.shape[:3], -1)
        if self.softcap is None:
            z.mul_(self.scale)
        else:
            z.mul_(self.scale / self.softcap).tanh_().mul_(self.softcap)
        return z

    def hide(self, z: Tensor, tile: _Tile) -> Tensor:
        """Sets the hidden scores of a tile to −∞."""
        place_K = torch.arange(tile.keys.start, tile.keys.stop, device=self.q.device)
        own = torch.arange(tile.rows.start, tile.rows.stop, device=self.q.device) + self.context
        own_L1 = own[:, None]
        hidden = (place_K > own_L1)[None, None]
        if self.window is not None:
            hidden = hidden | (place_K <= own_L1 - self.window)
        if self.first is not None:
            hidden = hidden | (place_K < self.first[tile.heads, None])[:, None, None]
        return z.masked_fill_(hidden, -torch.inf)


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Tensor | None,
    first: Tensor | None,
    context: int,
    window: int | None,
    scale: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """Output and lse [B, H, L]. Holds one tile or two."""
    job = _job(query, key, value, sinks, first, context, window, scale, softcap)
    out, lse = _outputs(query, value)
    outs, totals = (_by_key_head(part, key.shape[1]) for part in (out, lse))
    for tile in job.tiles():
        z = job.hide(job.scores(tile), tile)
        peak = z.amax(-1)
        if job.sink is not None:
            peak = torch.maximum(peak, job.sink[tile.heads])
        total = z.sub_(peak[..., None]).exp_().sum(-1)
        if job.sink is not None:
            total += (job.sink[tile.heads] - peak).exp_()
        mixed = multiply(z.flatten(1, 2), job.v[tile.heads, tile.keys]).view(*z.shape[:3], -1)
        outs[tile.heads, :, tile.rows] = mixed.div_(total[..., None]).to(out.dtype)
        totals[tile.heads, :, tile.rows] = total.log_().add_(peak)
        del z  # before the next one
    return out, lse


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Tensor | None,
    first: Tensor | None,
    out: Tensor,
    lse: Tensor,
    context: int,
    window: int | None,
    scale: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, and ∂o·o [B, H, L]. Holds two to four tiles."""
    job = _job(query, key, value, sinks, first, context, window, scale, softcap)
    dot = (grad.to(lse.dtype) * out).sum(-1)
    by_outs, dots, totals = (_by_key_head(part, key.shape[1]) for part in (grad, dot, lse))
    by_query = job.q.new_empty(job.q.shape)
    by_key, by_value = (part.new_zeros(part.shape, dtype=lse.dtype) for part in (job.k, job.v))
    for tile in job.tiles():
        p = job.scores(tile)
        slope = None if softcap is None else (p / softcap).square_().neg_().add_(1)
        job.hide(p, tile).sub_(totals[tile.heads, :, tile.rows, None]).exp_()
        by_out = by_outs[tile.heads, :, tile.rows].flatten(1, 2)
        by_value[tile.heads, tile.keys] += multiply(p.flatten(1, 2).mT, by_out)
        by_score = multiply(by_out, job.v[tile.heads, tile.keys].mT).view_as(p)
        by_score.sub_(dots[tile.heads, :, tile.rows, None]).mul_(p).mul_(scale)
        if slope is not None:
            by_score.mul_(slope)
        by_score = by_score.flatten(1, 2)
        q = job.q[tile.heads, :, tile.rows].flatten(1, 2)
        by_key[tile.heads, tile.keys] += multiply(by_score.mT, q)
        found = multiply(by_score, job.k[tile.heads, tile.keys])
        by_query[tile.heads, :, tile.rows] = found.view(*p.shape[:3], -1).to(query.dtype)
        del p, slope, by_score
    return (
        by_query.view(query.shape),
        by_key.to(key.dtype).view(key.shape),
        by_value.to(value.dtype).view(value.shape),
        dot,
    )


def _job(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Tensor | None,
    first: Tensor | None,
    context: int,
    window: int | None,
    scale: float,
    softcap: float | None,
) -> _Job:
    spans, heads = key.shape[:2]
    if sinks is not None:
        sinks = sinks.to(wide(query)).view(1, heads, -1, 1).expand(spans, -1, -1, -1).flatten(0, 1)
    return _Job(
        _by_key_head(query, heads),
        key.flatten(0, 1),
        value.flatten(0, 1),
        sinks,
        None if first is None else first.repeat_interleave(heads),
        context,
        window,
        scale,
        softcap,
    )


def _by_key_head(part: Tensor, heads: int) -> Tensor:
    """[B, H, L, …] → [N, G, L, …]; a view of a contiguous tensor."""
    return part.reshape(part.shape[0] * heads, -1, *part.shape[2:])


def _outputs(query: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    out = query.new_empty(*query.shape[:3], value.shape[-1])
    return out, query.new_empty(query.shape[:3], dtype=wide(query))


# Operations of their own: whoever records operations to keep their results sees no scores.
_attend = torch.library.custom_op("drpo::attend", forward, mutates_args=())
_attend_backward = torch.library.custom_op("drpo::attend_backward", backward, mutates_args=())


@_attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _outputs(query, value)


@_attend_backward.register_fake
def _(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Tensor | None,
    first: Tensor | None,
    out: Tensor,
    lse: Tensor,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    by_query, by_key, by_value = (part.new_empty(part.shape) for part in (query, key, value))
    return by_query, by_key, by_value, torch.empty_like(lse)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, sinks, first, *ctx.settings = inputs
    ctx.save_for_backward(query, key, value, sinks, first, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    query, key, value, sinks, first, out, lse = ctx.saved_tensors
    given = grad, query, key, value, sinks, first, out, lse
    *grads, dot = _attend_backward(*given, *ctx.settings)
    return (*grads, None if sinks is None else sink_gradient(sinks, lse, dot), *(None,) * 5)


def sink_gradient(sink_H: Tensor, lse_BHL: Tensor, dot_BHL: Tensor) -> Tensor:
    """∂s = −Σ exp(s − lse) ∂o·o over all queries, [H]."""
    share_BHL = (sink_H.to(lse_BHL.dtype)[:, None] - lse_BHL).exp()
    return -(share_BHL * dot_BHL).sum((0, 2)).to(sink_H.dtype)


_attend.register_autograd(_gradients, setup_context=_keep)
