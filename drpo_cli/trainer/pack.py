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
    """One prompt and one response to it, as the trainer sees them; a float a response token.

    old_logps   log μ of the engine, or log π_old where the trainer is the anchor
    advantages  A of each token, the same throughout unless a critic says otherwise
    importance  what the objective's loss of each token is multiplied with; None stands for 1
    ref_logps   log π_ref, where the loss has a divergence from a reference
    values      V of the critic before the step, and the `returns` it is to learn
    kept        whether its tokens have a loss at all
    """

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    old_logps: tuple[float, ...]
    advantages: tuple[float, ...]
    importance: tuple[float, ...] | None = None
    ref_logps: tuple[float, ...] | None = None
    values: tuple[float, ...] | None = None
    returns: tuple[float, ...] | None = None
    kept: bool = True

    @property
    def input_length(self) -> int:
        """Tokens that go through the model."""
        return len(self.prompt_ids) + len(self.response_ids) - 1


def samples_of(groups_P: Sequence[Group]) -> list[Sample]:
    """The rollouts of all groups in order, with advantages of 0: nothing is learned from them."""
    return [
        Sample(
            group.prompt.token_ids,
            rollout.token_ids,
            rollout.logps,
            (0.0,) * len(rollout.token_ids),
        )
        for group in groups_P
        for rollout in group.rollouts_G
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
    """One micro-batch. T input tokens, R of whose successors are response tokens.

    predict_R   which input token each response token is predicted from
    response_R  which sample each response token belongs to
    scale_R     what the reduction multiplies each token's loss with
    The rest are the columns of `Sample`; None where no sample has them.
    """

    input_ids_T: Tensor
    position_ids_T: Tensor
    layout: Layout
    predict_R: Tensor
    target_R: Tensor
    response_R: Tensor
    scale_R: Tensor
    old_logp_R: Tensor
    adv_R: Tensor
    importance_R: Tensor | None
    ref_logp_R: Tensor | None
    value_R: Tensor | None
    return_R: Tensor | None


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


def pack(
    samples: Sequence[Sample], device: torch.device, scales: Sequence[float] | None = None
) -> Packed:
    """Packs samples into one micro-batch; without samples, a token that no loss is taken on.

    `scales` has a factor for the token losses of each sample, 1 when not given.
    """
    ids: list[int] = []
    positions: list[int] = []
    predict: list[int] = []
    for sample in samples:
        first = len(ids) + len(sample.prompt_ids) - 1
        tokens = sample.prompt_ids + sample.response_ids[:-1]
        ids.extend(tokens)
        positions.extend(range(len(tokens)))
        predict.extend(range(first, first + len(sample.response_ids)))
    shape = layout([sample.input_length for sample in samples] or [1])
    counts = torch.tensor([len(s.response_ids) for s in samples], dtype=torch.long)
    scale_S = torch.tensor(scales if scales is not None else [1.0] * len(samples))
    return Packed(
        input_ids_T=torch.tensor(ids or [0], device=device),
        position_ids_T=torch.tensor(positions or [0], device=device),
        layout=Layout(
            tuple(bucket.to(device) for bucket in shape.buckets), shape.inverse_T.to(device)
        ),
        predict_R=torch.tensor(predict, dtype=torch.long, device=device),
        target_R=torch.tensor(
            [token for s in samples for token in s.response_ids], dtype=torch.long, device=device
        ),
        response_R=torch.arange(len(samples)).repeat_interleave(counts).to(device),
        scale_R=scale_S.repeat_interleave(counts).to(device),
        old_logp_R=_joined([s.old_logps for s in samples], device),
        adv_R=_joined([s.advantages for s in samples], device),
        importance_R=_column([s.importance for s in samples], device),
        ref_logp_R=_column([s.ref_logps for s in samples], device),
        value_R=_column([s.values for s in samples], device),
        return_R=_column([s.returns for s in samples], device),
    )


def _column(parts: Sequence[Sequence[float] | None], device: torch.device) -> Tensor | None:
    given = [part for part in parts if part is not None]
    return _joined(given, device) if len(given) == len(parts) else None


def _joined(parts: Sequence[Sequence[float]], device: torch.device) -> Tensor:
    values = [value for part in parts for value in part]
    return torch.tensor(values, dtype=torch.float32, device=device)
