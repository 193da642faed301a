"""Where the spans of a packed row lie and who sees whom: what attention knows of packing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SAME_LENGTH = 0.75  # attention pads within a bucket, at most to 1 / this


@dataclass(frozen=True)
class Span:
    """Neighbouring tokens of the packed row, and the earlier span that they see besides."""

    start: int
    length: int
    context: Span | None = None

    @property
    def seen(self) -> int:
        """Tokens of the context."""
        return 0 if self.context is None else self.context.length


@dataclass(frozen=True)
class Bucket:
    """Spans of like length side by side, as indices into the packed row.

    A padded place repeats its span's last token, which causal attention never lets others see.

    query_BL  [spans, longest]
    key_BK    [spans, context + longest]: the context in front, of equal length for all
    """

    query_BL: Tensor
    key_BK: Tensor

    def to(self, device: torch.device) -> Bucket:
        """The same on a device."""
        return Bucket(self.query_BL.to(device), self.key_BK.to(device))


@dataclass(frozen=True)
class Layout:
    """Where each packed span lies, bucketed by length so that attention pads little.

    inverse_T  where each packed token is in the buckets' outputs laid end to end
    """

    buckets: tuple[Bucket, ...]
    inverse_T: Tensor

    def to(self, device: torch.device) -> Layout:
        """The same on a device."""
        return Layout(tuple(b.to(device) for b in self.buckets), self.inverse_T.to(device))


def layout(spans: Sequence[Span]) -> Layout:
    """The layout of these spans, which fill the packed row."""
    total = sum(span.length for span in spans)
    buckets, inverse_T, offset = [], torch.empty(total, dtype=torch.long), 0
    order = sorted(spans, key=lambda span: (span.seen, -span.length))
    while order:
        first = order[0]
        members = [
            s for s in order if s.seen == first.seen and s.length >= SAME_LENGTH * first.length
        ]
        order = order[len(members) :]
        start_B1 = torch.tensor([span.start for span in members])[:, None]
        length_B1 = torch.tensor([span.length for span in members])[:, None]
        place_1L = torch.arange(first.length)[None, :]
        query_BL = start_B1 + torch.minimum(place_1L, length_B1 - 1)
        contexts = [[s.context.start] for s in members if s.context is not None]
        front = torch.tensor(contexts) + torch.arange(first.seen) if contexts else query_BL[:, :0]
        buckets.append(Bucket(query_BL, torch.cat([front, query_BL], dim=1)))
        real_BL = place_1L < length_B1
        flat_BL = torch.arange(real_BL.numel()).view(real_BL.shape) + offset
        inverse_T[(start_B1 + place_1L)[real_BL]] = flat_BL[real_BL]
        offset += real_BL.numel()
    return Layout(tuple(buckets), inverse_T)
