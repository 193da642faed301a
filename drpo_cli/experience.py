"""What a step learns from: the episodes of one rank, as columns over their response tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from drpo_cli.types import Group, Rollout, Scores

RAGGED = ("prompt_ids_S", "experts_S")
"""Columns whose rows are of different lengths: tuples."""


@dataclass(frozen=True)
class Experience:
    """S episodes (rows) whose T response tokens lie end to end; one array per quantity, on the CPU.

    An episode is a prompt and the tokens that follow it. Row s has the response tokens from
    `offsets[s]` up to `offsets[s + 1]`. A stage of the step adds or replaces a column with
    `dataclasses.replace`; nothing else changes.

    Per row:
    prompt_ids_S   the prompt's token ids
    group_S        int64, the group that the row belongs to: 0 … P − 1, neighbours together
    truncated_S    bool, whether the response ran out of tokens
    scored_S       bool; a row without a score takes no part in advantages and losses
    score_S        float64, the total reward, 0 where there is none
    update_S       int64, the optimizer update that learns from it: 0 until the trainer divides them
    experts_S      what the engine's routers chose for each row's input tokens (`Rollout.experts`);
                   None if it is not known. A tensor per row, so that rows are taken without a copy

    Per response token:
    token_T        int64
    loss_mask_T    bool, whether the token has a loss: false for what the policy did not sample
                   (tool output, user turns) and for rows that are left out
    logp_mu_T      float64, log μ: the engine's log-probability at the sampling temperature
    advantage_T    float64, A: 0 until `step.advantage` computes it

    Per response token, None until a stage needs it:
    anchor_logp_T  log π_old as the trainer computed it, in place of log μ (`train.anchor`)
    importance_T   the weight of the objective's loss
    ref_logp_T     log π_ref, for the divergence from a reference model
    value_T        V of the critic before the step, and
    return_T       the return that the critic learns
    """

    prompt_ids_S: tuple[tuple[int, ...], ...]
    group_S: Tensor
    truncated_S: Tensor
    scored_S: Tensor
    score_S: Tensor
    update_S: Tensor
    offsets: Tensor
    token_T: Tensor
    loss_mask_T: Tensor
    logp_mu_T: Tensor
    advantage_T: Tensor
    experts_S: tuple[Tensor, ...] | None = None
    anchor_logp_T: Tensor | None = None
    importance_T: Tensor | None = None
    ref_logp_T: Tensor | None = None
    value_T: Tensor | None = None
    return_T: Tensor | None = None

    @classmethod
    def of(cls, groups_P: Sequence[Group], scores_P: Sequence[Scores] | None = None) -> Experience:
        """All rollouts of these groups in order, one row each; without scores, all with score 0."""
        rollouts_S = [rollout for group in groups_P for rollout in group.rollouts_G]
        sizes_P = torch.tensor([len(group.rollouts_G) for group in groups_P], dtype=torch.long)
        if scores_P is None:
            score_S, scored_S = [0.0] * len(rollouts_S), [True] * len(rollouts_S)
        else:
            score_S = [total for scores in scores_P for total in scores.total_G]
            scored_S = [
                i not in scores.skipped for scores in scores_P for i in range(len(scores.total_G))
            ]
        lengths_S = torch.tensor([len(r.token_ids) for r in rollouts_S], dtype=torch.long)
        scored = torch.tensor(scored_S, dtype=torch.bool)
        token_T = torch.tensor([i for r in rollouts_S for i in r.token_ids], dtype=torch.long)
        logp_mu_T = torch.tensor([x for r in rollouts_S for x in r.logps], dtype=torch.float64)
        return cls(
            prompt_ids_S=tuple(
                group.prompt.token_ids for group in groups_P for _ in group.rollouts_G
            ),
            group_S=torch.arange(len(groups_P)).repeat_interleave(sizes_P),
            truncated_S=torch.tensor([r.truncated for r in rollouts_S], dtype=torch.bool),
            scored_S=scored,
            score_S=torch.tensor(score_S, dtype=torch.float64),
            update_S=torch.zeros(len(rollouts_S), dtype=torch.long),
            offsets=_offsets(lengths_S),
            token_T=token_T,
            loss_mask_T=scored.repeat_interleave(lengths_S),
            logp_mu_T=logp_mu_T,
            advantage_T=torch.zeros_like(logp_mu_T),
            experts_S=_experts(rollouts_S),
        )

    @classmethod
    def join(cls, parts: Sequence[Experience]) -> Experience:
        """The rows of all parts in order. Groups are numbered anew; no group is in two parts."""
        columns: dict[str, Any] = {}
        parts = [part for part in parts if len(part)] or parts[:1]
        for name in (field.name for field in fields(cls)):
            values = [getattr(part, name) for part in parts]
            if name in RAGGED and values[0] is not None:
                columns[name] = tuple(of_row for column in values for of_row in column)
            elif name == "offsets":
                columns[name] = _offsets(torch.cat([part.lengths_S for part in parts]))
            elif name == "group_S":
                pairs = [torch.stack([torch.full_like(g, i), g]) for i, g in enumerate(values)]
                columns[name] = torch.cat(pairs, dim=1).unique(dim=1, return_inverse=True)[1]
            else:
                columns[name] = None if values[0] is None else torch.cat(values)
        return cls(**columns)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.prompt_ids_S)

    @property
    def lengths_S(self) -> Tensor:
        """The response tokens of each row, int64."""
        return self.offsets.diff()

    @property
    def old_logp_T(self) -> Tensor:
        """The log-probability that ratios are taken against: log π_old if set, else log μ."""
        return self.logp_mu_T if self.anchor_logp_T is None else self.anchor_logp_T

    @property
    def loss_tokens_S(self) -> Tensor:
        """The tokens of each row that have a loss, int64."""
        before = torch.nn.functional.pad(self.loss_mask_T.long().cumsum(0), (1, 0))
        return before[self.offsets].diff()

    def repeat(self, value_S: Tensor) -> Tensor:
        """One value per row as a column over response tokens."""
        return value_S.repeat_interleave(self.lengths_S)

    def split(self, column_T: Tensor) -> list[Tensor]:
        """A column's part of each row."""
        return list(torch.split(column_T, self.lengths_S.tolist()))

    def take(self, rows: Sequence[int]) -> Experience:
        """These rows, in this order."""
        index_S = torch.tensor(rows, dtype=torch.long)
        lengths_S = self.lengths_S[index_S]
        offsets = _offsets(lengths_S)
        moved_S = self.offsets[:-1][index_S] - offsets[:-1]
        index_T = torch.arange(int(offsets[-1])) + moved_S.repeat_interleave(lengths_S)
        changed: dict[str, Any] = {"offsets": offsets}
        for name in (field.name for field in fields(self)):
            column = getattr(self, name)
            if column is None:
                continue
            if name in RAGGED:
                changed[name] = tuple(column[s] for s in rows)
            elif name.endswith("_S"):
                changed[name] = column[index_S]
            elif name.endswith("_T"):
                changed[name] = column[index_T]
        return replace(self, **changed)

    def unmasked(self) -> Experience:
        """The same rows with a loss on every token, for a forward pass over all of them."""
        return replace(self, loss_mask_T=torch.ones_like(self.loss_mask_T))

    def without_experts(self) -> Experience:
        """The same rows, for a forward pass in which every router chooses by itself."""
        return replace(self, experts_S=None)


def _offsets(lengths_S: Tensor) -> Tensor:
    return torch.nn.functional.pad(lengths_S.cumsum(0), (1, 0))


def _experts(rollouts_S: Sequence[Rollout]) -> tuple[Tensor, ...] | None:
    found = [r.experts for r in rollouts_S]
    if not found or found[0] is None:
        return None
    return tuple(torch.from_numpy(experts) for experts in found)
