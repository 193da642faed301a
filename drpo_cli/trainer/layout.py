"""Where the spans of a packed row lie, and which tokens see which: attention's view of packing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

SAME_LENGTH = 0.75  # a bucket pads its spans to at most 1 / this of their length
SAME_CONTEXT = 0.5  # the same for contexts; their padding costs less, as it adds no query


@dataclass(frozen=True)
class Span:
    """Neighbouring tokens of the packed row, and the earlier span that they also see."""

    start: int
    length: int
    context: Span | None = None

    @property
    def seen(self) -> int:
        """Tokens of the context."""
        return 0 if self.context is None else self.context.length


@dataclass(frozen=True)
class Bucket:
    """Spans of similar length, with contexts of similar length, as one batch for attention.

    Query i of a span is its token i. Its keys are `context` places, then the span's own tokens. A
    shorter context fills the last places. A shorter span repeats its last token, which causal
    attention hides from all others.

    first_B  the first key that each span sees; None if all spans see all keys
    """

    spans: int
    queries: int
    context: int
    first_B: Tensor | None

    @property
    def keys(self) -> int:
        """Keys of each span."""
        return self.context + self.queries

    def mask(self, like: Tensor) -> Tensor | None:
        """The mask added to the scores, [spans or 1, 1, queries, keys]: 0 or −∞.

        None if plain causality is enough. Dtype and device are those of `like`.
        """
        if not self.context:
            return None
        place_K = torch.arange(self.keys, device=like.device)
        seen_1LK = (place_K[self.context :, None] >= place_K)[None]
        if self.first_B is not None:
            seen_1LK = seen_1LK & (place_K >= self.first_B[:, None])[:, None]
        scores = torch.zeros(seen_1LK.shape, dtype=like.dtype, device=like.device)
        return scores.masked_fill_(~seen_1LK, -torch.inf)[:, None]


@dataclass(frozen=True)
class Padded:
    """Maps packed tokens to batches of spans of similar length, and back.

    query_N    the packed token of every query of every bucket, end to end
    key_M      the same for every key
    inverse_I  the place of each packed token among the queries
    """

    buckets: tuple[Bucket, ...]
    query_N: Tensor
    key_M: Tensor
    inverse_I: Tensor
    _masks: dict[int, Tensor | None] = field(default_factory=dict)

    def mask(self, bucket: int, like: Tensor) -> Tensor | None:
        """The mask of a bucket; it is made once for all layers."""
        if bucket not in self._masks:
            self._masks[bucket] = self.buckets[bucket].mask(like)
        return self._masks[bucket]


@dataclass(frozen=True)
class Ragged:
    """The spans end to end, for a kernel that takes sequences of any lengths.

    The queries are the tokens of the packed row, in order. The keys of a span are its context and
    its own tokens. So its last query is at its last key, and query i of a span with `seen` tokens
    of context sees the keys up to seen + i: causality, aligned at the end.

    key_M               the packed token of every key; None if these are the row's, in order
    query_ends, key_ends  int32: 0, then where each span's queries or keys end
    longest_query, longest_key  of any span
    """

    key_M: Tensor | None
    query_ends: Tensor
    key_ends: Tensor
    longest_query: int
    longest_key: int


class Layout:
    """Where the spans of a packed row lie, in the form that a kernel needs: made when asked for."""

    def __init__(self, spans: Sequence[Span], device: torch.device):
        self.spans = spans
        self.device = device

    @cached_property
    def padded(self) -> Padded:
        """The spans as padded batches."""
        return _pad(self.spans, self.device)

    @cached_property
    def ragged(self) -> Ragged:
        """The spans end to end."""
        seen = [span.length + span.seen for span in self.spans]
        keys = [
            torch.arange(part.start, part.start + part.length)
            for span in self.spans
            for part in (span.context, span)
            if part is not None
        ]
        shared = any(span.seen for span in self.spans)
        return Ragged(
            key_M=torch.cat(keys).to(self.device) if shared else None,
            query_ends=_ends([span.length for span in self.spans], self.device),
            key_ends=_ends(seen, self.device),
            longest_query=max(span.length for span in self.spans),
            longest_key=max(seen),
        )


def _ends(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device)


def _pad(spans: Sequence[Span], device: torch.device) -> Padded:
    buckets, queries, keys, places = [], [], [], []
    left, offset = sorted(spans, key=lambda span: -span.length), 0
    while left:
        members = _alike(left)
        taken = {span.start for span in members}
        left = [span for span in left if span.start not in taken]
        bucket, query_BL, key_BK = _bucket(members, device)
        buckets.append(bucket)
        queries.append(query_BL.flatten())
        keys.append(key_BK.flatten())
        places += [
            torch.arange(span.length) + offset + i * bucket.queries
            for i, span in enumerate(members)
        ]
        offset += query_BL.numel()
    query_N, place_I = torch.cat(queries), torch.cat(places)
    inverse_I = torch.empty_like(place_I)
    inverse_I[query_N[place_I]] = place_I
    return Padded(
        tuple(buckets), query_N.to(device), torch.cat(keys).to(device), inverse_I.to(device)
    )


def _alike(spans: Sequence[Span]) -> list[Span]:
    """The spans that share a bucket with the first, which is the longest."""
    long = [span for span in spans if span.length >= SAME_LENGTH * spans[0].length]
    context = max(span.seen for span in long)
    return [span for span in long if span.seen >= SAME_CONTEXT * context]


def _bucket(members: Sequence[Span], device: torch.device) -> tuple[Bucket, Tensor, Tensor]:
    """A bucket of these spans, with the packed tokens of its queries [B, L] and keys [B, K]."""
    queries, context = members[0].length, max(span.seen for span in members)
    start_B1 = torch.tensor([span.start for span in members])[:, None]
    length_B1 = torch.tensor([span.length for span in members])[:, None]
    query_BL = start_B1 + torch.minimum(torch.arange(queries), length_B1 - 1)
    if not context:
        return Bucket(len(members), queries, 0, None), query_BL, query_BL
    seen_B1 = torch.tensor([span.seen for span in members])[:, None]
    end_B1 = seen_B1 + torch.tensor([[s.context.start if s.context else 0] for s in members])
    front_BK = end_B1 - torch.minimum(torch.arange(context, 0, -1), seen_B1)
    alike = all(span.seen == context for span in members)
    first_B = None if alike else (context - seen_B1[:, 0]).to(device)
    bucket = Bucket(len(members), queries, context, first_B)
    return bucket, query_BL, torch.cat([front_BK, query_BL], dim=1)
