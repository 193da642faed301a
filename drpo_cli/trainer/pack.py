"""Sequences of any lengths packed to a token budget: one row, no padding.

A response's last token is never an input: nothing is predicted from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drpo_cli.types import Group

SAME_LENGTH = 0.75  # attention pads within a bucket, at most to 1 / this


@dataclass(frozen=True)
class Sample:
    """One prompt and one response to it, as the trainer sees them."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    old_logps: tuple[float, ...]
    advantage: float

    @property
    def input_length(self) -> int:
        """Tokens that go through the model."""
        return len(self.prompt_ids) + len(self.response_ids) - 1


def samples_of(
    groups_P: Sequence[Group], adv_PG: Sequence[Sequence[float]] | None = None
) -> list[Sample]:
    """The rollouts of all groups in order, with their advantages (0 when only replayed)."""
    return [
        Sample(
            group.prompt.token_ids,
            rollout.token_ids,
            rollout.logps,
            adv_PG[p][g] if adv_PG is not None else 0.0,
        )
        for p, group in enumerate(groups_P)
        for g, rollout in enumerate(group.rollouts_G)
    ]


@dataclass(frozen=True)
class Layout:
    """Where each packed sequence lies, bucketed by length so that attention pads little.

    buckets    for each bucket, [sequences, longest] indices into the packed row; a padded place
               repeats its sequence's last token, which causal attention never lets others see
    inverse_T  where each packed token is in the buckets' outputs laid end to end
    """

    buckets: tuple[Tensor, ...]
    inverse_T: Tensor


@dataclass(frozen=True)
class Packed:
    """One micro-batch. T input tokens, R of whose successors are response tokens."""

    input_ids_T: Tensor
    position_ids_T: Tensor
    layout: Layout
    predict_R: Tensor
    target_R: Tensor
    old_logp_R: Tensor
    adv_R: Tensor


def bins(lengths: Sequence[int], budget: int, at_least: int = 1) -> list[list[int]]:
    """Indices of sequences, grouped so that each group has at most `budget` tokens.

    First-fit decreasing. A sequence longer than the budget gets a group of its own. With
    `at_least` groups asked for, the longest groups are halved until there are as many; groups
    stay empty where there are too few sequences.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups: list[list[int]] = []
    room: list[int] = []
    for i in order:
        at = next((g for g, free in enumerate(room) if free >= lengths[i]), None)
        if at is None:
            groups.append([i])
            room.append(budget - lengths[i])
        else:
            groups[at].append(i)
            room[at] -= lengths[i]
    while len(groups) < at_least:
        fullest = max(groups, key=len, default=[])
        groups.append(fullest[1::2])
        del fullest[1::2]
    return groups


def layout(lengths: Sequence[int]) -> Layout:
    """The layout of sequences of these lengths, packed in this order."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    buckets, inverse_T, offset = [], torch.empty(starts[-1], dtype=torch.long), 0
    while order:
        longest = lengths[order[0]]
        members = [i for i in order if lengths[i] >= SAME_LENGTH * longest]
        order = order[len(members) :]
        start_B1 = torch.tensor([starts[i] for i in members])[:, None]
        length_B1 = torch.tensor([lengths[i] for i in members])[:, None]
        place_1L = torch.arange(longest)[None, :]
        buckets.append(start_B1 + torch.minimum(place_1L, length_B1 - 1))
        real_BL = place_1L < length_B1
        flat_BL = torch.arange(len(members) * longest).view(len(members), longest) + offset
        inverse_T[(start_B1 + place_1L)[real_BL]] = flat_BL[real_BL]
        offset += len(members) * longest
    return Layout(tuple(buckets), inverse_T)


def pack(samples: Sequence[Sample], device: torch.device) -> Packed:
    """Packs samples into one micro-batch; without samples, a token that no loss is taken on."""
    ids: list[int] = []
    positions: list[int] = []
    predict: list[int] = []
    lengths: list[int] = []
    for sample in samples:
        first = len(ids) + len(sample.prompt_ids) - 1
        tokens = sample.prompt_ids + sample.response_ids[:-1]
        ids.extend(tokens)
        positions.extend(range(len(tokens)))
        predict.extend(range(first, first + len(sample.response_ids)))
        lengths.append(len(tokens))
    if not samples:
        ids, positions, lengths = [0], [0], [1]
    target = [token for s in samples for token in s.response_ids]
    old = [logp for s in samples for logp in s.old_logps]
    adv = [s.advantage for s in samples for _ in s.response_ids]
    shape = layout(lengths)
    return Packed(
        input_ids_T=torch.tensor(ids, device=device),
        position_ids_T=torch.tensor(positions, device=device),
        layout=Layout(
            tuple(bucket.to(device) for bucket in shape.buckets), shape.inverse_T.to(device)
        ),
        predict_R=torch.tensor(predict, dtype=torch.long, device=device),
        target_R=torch.tensor(target, dtype=torch.long, device=device),
        old_logp_R=torch.tensor(old, dtype=torch.float32, device=device),
        adv_R=torch.tensor(adv, dtype=torch.float32, device=device),
    )
