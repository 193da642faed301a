"""Packs rows of any lengths into micro-batches of a token budget: end to end, without padding.

A response's last token is never an input: nothing is predicted from it. A prompt that several
rows of a micro-batch have in common is in it once, and each of their responses sees it, where that
costs less (`sharing`).

A model whose layers cannot keep packed sequences apart gets padded micro-batches instead: whole
sequences of similar length, with padding at their end. No token sees a later one in a causal model,
so the padding changes nothing before it, and needs no mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice

import torch
from torch import Tensor, nn

from drpo_cli import progress
from drpo_cli.experience import Experience
from drpo_cli.trainer.layout import Layout, Span
from drpo_cli.trainer.sharing import ALWAYS, Costs

PADDING = 0  # any token would do


@dataclass(frozen=True)
class Packed:
    """One micro-batch: I input tokens, and the T response tokens with a loss that follow them.

    sequences   how many sequences of one length the inputs are: 1 for a packed row
    layout      the spans of a packed row; None for a padded batch
    predict_T   the input token that each response token is predicted from
    response_T  the response that each token belongs to: a turn of the policy, 0 … without gaps
    scale_T     the factor of each token's loss, from the reduction
    experts_I   what the engine's routers chose for each input token: [I, blocks, experts of a
                token], on the CPU, −1 for padding; None if it is not known, or not to be used
    The rest are columns of `Experience`, in float32; None where it has none.
    """

    input_ids_I: Tensor
    position_ids_I: Tensor
    layout: Layout | None
    predict_T: Tensor
    target_T: Tensor
    response_T: Tensor
    scale_T: Tensor
    old_logp_T: Tensor
    adv_T: Tensor
    importance_T: Tensor | None
    ref_logp_T: Tensor | None
    value_T: Tensor | None
    return_T: Tensor | None
    sequences: int = 1
    experts_I: Tensor | None = None


def bins(
    lengths: Sequence[int], budget: int, at_least: int = 1, padded: bool = False
) -> list[list[int]]:
    """Indices of sequences, grouped so that each group has at most `budget` tokens.

    First-fit decreasing; with `padded`, the sequences of a group count as long as its longest, and
    groups are of neighbours by length. A sequence longer than the budget gets a group of its own.
    With `at_least` groups asked for, the longest groups are halved until there are as many; groups
    stay empty where there are too few sequences.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups: list[list[int]] = []
    room: list[int] = []
    for i in order:
        needed = 1 if padded else lengths[i]
        at = next((g for g, free in enumerate(room) if free >= needed), len(groups))
        if at == len(groups):
            groups.append([])
            room.append(budget // lengths[i] if padded else budget)
        groups[at].append(i)
        room[at] -= needed
    while len(groups) < at_least:
        fullest = max(groups, key=len, default=[])
        groups.append(fullest[1::2])
        del fullest[1::2]
    return groups


def bundles(exp: Experience, budget: int, costs: Costs = ALWAYS) -> list[list[int]]:
    """Rows that must be in one micro-batch because they share their prompt in it.

    A prompt with more responses than fit `budget` tokens gives several bundles. A row that is
    cheaper by itself is alone, by the model's `costs`.
    """
    lengths = exp.lengths_S.tolist()
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    found = []
    for row, share in enumerate(_sharing(exp, costs)):
        if share:
            by_prompt.setdefault(exp.prompt_ids_S[row], []).append(row)
        else:
            found.append([row])
    for prompt_ids, rows in by_prompt.items():
        bundle: list[int] = []
        room = 0
        for row in rows:
            needed = lengths[row] - 1
            if not bundle or needed > room:
                bundle, room = [], budget - len(prompt_ids)
                found.append(bundle)
            bundle.append(row)
            room -= needed
    return found


def packed_length(prompt: int, responses: Iterable[int]) -> int:
    """The input tokens of a prompt with its responses, all lengths in tokens."""
    return prompt + sum(response - 1 for response in responses)


def _sharing(exp: Experience, costs: Costs) -> list[bool]:
    """Whether each row would share its prompt with another that has the same."""
    lengths = zip(exp.prompt_ids_S, exp.lengths_S.tolist(), strict=True)
    return [costs.shares(len(prompt), response - 1) for prompt, response in lengths]


@dataclass
class _Row:
    """The packed row as it grows; with a `width`, each span is padded to it."""

    width: int = 0
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    predict: list[int] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)

    def put(self, tokens: Sequence[int], context: Span | None = None) -> Span:
        """Appends tokens that follow the context, or nothing."""
        span = Span(len(self.ids), len(tokens), context)
        padding = max(0, self.width - span.length)
        self.ids.extend([*tokens, *[PADDING] * padding])
        self.positions.extend(range(span.seen, span.seen + span.length + padding))
        if tokens:
            self.spans.append(span)
        return span

    def put_all(self, prompt_ids: Sequence[int], responses: Sequence[Sequence[int]]) -> None:
        """Appends the responses to a prompt; several share one copy of it."""
        if len(responses) == 1:
            span = self.put([*prompt_ids, *responses[0][:-1]])
            first = span.start + len(prompt_ids) - 1
            self.predict.extend(range(first, first + len(responses[0])))
            return
        prompt = self.put(prompt_ids)
        for response in responses:
            own = self.put(response[:-1], prompt)
            self.predict.append(prompt.start + prompt.length - 1)
            self.predict.extend(range(own.start, own.start + own.length))


def pack(
    exp: Experience,
    device: torch.device,
    scale_S: Sequence[float] | None = None,
    costs: Costs = ALWAYS,
) -> Packed:
    """Packs all rows into one micro-batch; no rows give one input token and no loss.

    `scale_S` is a factor for the token losses of each row, 1 if not given. `costs` must be
    those that `bundles` was given: they say whether the rows are padded.
    """
    progress.tick()  # every micro-batch of every model passes here
    responses = [ids_T.tolist() for ids_T in exp.split(exp.token_T)] if len(exp) else []
    experts_S = iter(exp.experts_S or ())
    experts: list[Tensor] = []
    sequences = zip(exp.prompt_ids_S, responses, strict=True)
    longest = max((packed_length(len(p), [len(r)]) for p, r in sequences), default=1)
    row = _Row(longest if costs.padded else 0)
    kinds = zip(exp.prompt_ids_S, _sharing(exp, costs), responses, strict=True)
    for (prompt_ids, share), neighbours in groupby(kinds, lambda kind: kind[:2]):
        together = [response for _, _, response in neighbours]
        for part in [together] if share else [[response] for response in together]:
            row.put_all(prompt_ids, part)
            experts += _experts_of(len(prompt_ids), list(islice(experts_S, len(part))), row.width)
    if not len(exp):
        row.put([0])
    mask_T = exp.loss_mask_T
    scale = torch.ones(len(exp)) if scale_S is None else torch.tensor(scale_S)

    def column(values_T: Tensor | None) -> Tensor | None:
        return None if values_T is None else values_T[mask_T].float().to(device)

    def chosen(values_T: Tensor) -> Tensor:
        return values_T[mask_T].to(device)

    return Packed(
        input_ids_I=torch.tensor(row.ids, device=device),
        position_ids_I=torch.tensor(row.positions, device=device),
        layout=None if costs.padded else Layout(row.spans, device),
        predict_T=chosen(torch.tensor(row.predict, dtype=torch.long)),
        target_T=chosen(exp.token_T),
        response_T=_responses(exp).to(device),
        scale_T=chosen(exp.repeat(scale)).float(),
        old_logp_T=chosen(exp.old_logp_T).float(),
        adv_T=chosen(exp.advantage_T).float(),
        importance_T=column(exp.importance_T),
        ref_logp_T=column(exp.ref_logp_T),
        value_T=column(exp.value_T),
        return_T=column(exp.return_T),
        experts_I=torch.cat(experts) if experts else None,
        sequences=len(row.spans) if costs.padded else 1,
    )


def _responses(exp: Experience) -> Tensor:
    """The response of each token with a loss. A turn is in one row, whichever row that is."""
    row_T = exp.repeat(torch.arange(len(exp)))[exp.loss_mask_T]
    new_T = torch.ones_like(row_T)
    new_T[1:] = ((row_T.diff() != 0) | (exp.turn_T[exp.loss_mask_T].diff() != 0)).long()
    return new_T.cumsum(0) - 1


def _experts_of(prompt: int, experts: list[Tensor], width: int) -> list[Tensor]:
    """The experts of rows that share a prompt of so many tokens, as `_Row.put_all` puts them.

    The prompt's are those of the first row: a router chooses by a token and those before it. What
    pads a row to `width` gets −1.
    """
    if len(experts) < 2:
        padding = [(0, 0, 0, 0, 0, max(0, width - len(row))) for row in experts]
        return [
            nn.functional.pad(row.short(), by, value=-1)
            for row, by in zip(experts, padding, strict=True)
        ]
    return [experts[0][:prompt], *(of_row[prompt:] for of_row in experts)]
