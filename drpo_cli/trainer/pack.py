"""Sequences of any lengths packed to a token budget: one row, no padding.

A response's last token is never an input: nothing is predicted from it. A prompt that several
samples of a micro-batch have in common is in the row once, and each of their responses sees it,
where that costs less (`sharing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import inf

import torch
from torch import Tensor

from drpo_cli.trainer.layout import Layout, Span, layout
from drpo_cli.trainer.sharing import shares
from drpo_cli.types import Group


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


def bundles(samples: Sequence[Sample], budget: int, token_cost: float = inf) -> list[list[int]]:
    """Indices of samples that are to share a micro-batch, since they are to share their prompt.

    Of a prompt with more responses than fit `budget` tokens, several. A sample that is better off
    by itself is alone; `token_cost` is that of `sharing.shares`.
    """
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    found = []
    for i, sample in enumerate(samples):
        if _shares(sample, token_cost):
            by_prompt.setdefault(sample.prompt_ids, []).append(i)
        else:
            found.append([i])
    for members in by_prompt.values():
        found.append([members[0]])
        for i in members[1:]:
            if packed_length([samples[j] for j in (*found[-1], i)]) <= budget:
                found[-1].append(i)
            else:
                found.append([i])
    return found


def _shares(sample: Sample, token_cost: float) -> bool:
    return shares(len(sample.prompt_ids), len(sample.response_ids) - 1, token_cost)


def packed_length(bundle: Sequence[Sample]) -> int:
    """Tokens that go through the model for samples with one prompt."""
    return len(bundle[0].prompt_ids) + sum(len(s.response_ids) - 1 for s in bundle)


@dataclass
class _Row:
    """The packed row as it grows."""

    ids: list[int]
    positions: list[int]
    predict: list[int]
    spans: list[Span]

    def put(self, tokens: Sequence[int], context: Span | None = None) -> Span:
        """Appends tokens that follow the context, or nothing."""
        span = Span(len(self.ids), len(tokens), context)
        self.ids.extend(tokens)
        self.positions.extend(range(span.seen, span.seen + span.length))
        if tokens:
            self.spans.append(span)
        return span

    def put_all(self, samples: Sequence[Sample]) -> None:
        """Appends samples with one prompt, which is in the row once."""
        prompt_ids = samples[0].prompt_ids
        if len(samples) == 1:
            span = self.put(prompt_ids + samples[0].response_ids[:-1])
            first = span.start + len(prompt_ids) - 1
            self.predict.extend(range(first, first + len(samples[0].response_ids)))
            return
        prompt = self.put(prompt_ids)
        for sample in samples:
            own = self.put(sample.response_ids[:-1], prompt)
            self.predict.append(prompt.start + prompt.length - 1)
            self.predict.extend(range(own.start, own.start + own.length))


def pack(
    samples: Sequence[Sample],
    device: torch.device,
    scales: Sequence[float] | None = None,
    token_cost: float = inf,
) -> Packed:
    """Packs samples into one micro-batch; without samples, a token that no loss is taken on.

    `scales` has a factor for the token losses of each sample, 1 when not given. `token_cost` is
    what `bundles` was given, that of `sharing.shares`.
    """
    row = _Row([], [], [], [])
    together = groupby(samples, lambda sample: (sample.prompt_ids, _shares(sample, token_cost)))
    for (_, share), neighbours in together:
        if share:
            row.put_all(list(neighbours))
        else:
            for sample in neighbours:
                row.put_all([sample])
    if not samples:
        row.put([0])
    counts = torch.tensor([len(s.response_ids) for s in samples], dtype=torch.long)
    scale_S = torch.tensor(scales if scales is not None else [1.0] * len(samples))
    return Packed(
        input_ids_T=torch.tensor(row.ids, device=device),
        position_ids_T=torch.tensor(row.positions, device=device),
        layout=layout(row.spans, device),
        predict_R=torch.tensor(row.predict, dtype=torch.long, device=device),
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
