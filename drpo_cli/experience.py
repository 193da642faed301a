"""What a step learns from: the episodes of one rank, as columns over their response tokens.

An episode is a sample of a prompt: one response, or several turns of the policy with observations
between them. It is one row, or several neighbouring ones where its chat template rewrote what the
model had seen. Each sampled token is in one row, so rows can be learnt from one by one; what counts
episodes (baselines, means over responses, updates) goes by `episode_S`.
"""

from __future__ import annotations

import math
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
    """S rows whose T response tokens lie end to end; one array per quantity, on the CPU.

    A row is a prompt and the tokens that follow it, whoever wrote them. Row s has the response
    tokens from `offsets[s]` up to `offsets[s + 1]`. A stage of the step adds or replaces a column
    with `dataclasses.replace`; nothing else changes.

    Per row:
    prompt_ids_S   the token ids in front
    group_S        int64, the group that the row belongs to: 0 … P − 1, neighbours together
    episode_S      int64, the episode that the row belongs to: 0 … E − 1, neighbours together. The
                   next three, and the update, are the same for all its rows
    truncated_S    bool, whether the episode ran out of tokens
    scored_S       bool; a row without a score takes no part in advantages and losses
    score_S        float64, the total reward of the episode, 0 where there is none
    update_S       int64, the optimizer update that learns from it: 0 until the trainer divides them
    counted_S      int64, the tokens with a loss of the whole episode, whose rows may be on several
                   ranks by then: 0 until the trainer divides them
    experts_S      what the engine's routers chose for each row's input tokens (`Rollout.experts`);
                   None if it is not known. A tensor per row, so that rows are taken without a copy

    Per response token:
    token_T        int64
    sampled_T      bool, whether the policy sampled it: false for tool output and user turns
    loss_mask_T    bool, whether the token has a loss: false for what the policy did not sample,
                   for rows that are left out, and where μ is 0, so that π/μ has no value
    logp_mu_T      float64, log μ: the engine's log-probability at the sampling temperature; 0 where
                   nothing was sampled
    turn_T         int64, the turn of the episode in which it was sampled, from 0; −1 where it was
                   not
    reward_T       float64, the part of the score that the environment gave for a turn, at its last
                   token
    advantage_T    float64, A: 0 until `step.advantage` computes it

    Per response token, None until a stage needs it:
    anchor_logp_T  log π_old as the trainer computed it, in place of log μ (`train.anchor`)
    importance_T   the weight of the objective's loss
    ref_logp_T     log π_ref, for the divergence from a reference model
    teacher_logp_T log π of a teacher, for distillation
    value_T        V of the critic before the step, and
    return_T       the return that the critic learns, at
    valued_T       the tokens that have one: all sampled ones, or the first of each turn
    """

    prompt_ids_S: tuple[tuple[int, ...], ...]
    group_S: Tensor
    episode_S: Tensor
    truncated_S: Tensor
    scored_S: Tensor
    score_S: Tensor
    update_S: Tensor
    counted_S: Tensor
    offsets: Tensor
    token_T: Tensor
    sampled_T: Tensor
    loss_mask_T: Tensor
    logp_mu_T: Tensor
    turn_T: Tensor
    reward_T: Tensor
    advantage_T: Tensor
    experts_S: tuple[Tensor, ...] | None = None
    anchor_logp_T: Tensor | None = None
    importance_T: Tensor | None = None
    ref_logp_T: Tensor | None = None
    teacher_logp_T: Tensor | None = None
    value_T: Tensor | None = None
    return_T: Tensor | None = None
    valued_T: Tensor | None = None

    @classmethod
    def of(cls, groups_P: Sequence[Group], scores_P: Sequence[Scores] | None = None) -> Experience:
        """All rollouts of these groups in order, their rows as rows; without scores, all score 0.

        Raises ValueError for turns that do not fit the tokens they are said to have, or the
        rewards that scores have for them.
        """
        rollouts_E = [rollout for group in groups_P for rollout in group.rollouts_G]
        rows_S = [row for rollout in rollouts_E for row in rollout.rows]
        rows_E = torch.tensor([len(rollout.rows) for rollout in rollouts_E], dtype=torch.long)
        size_P = torch.tensor([len(group.rollouts_G) for group in groups_P], dtype=torch.long)
        episode_S = torch.arange(len(rollouts_E)).repeat_interleave(rows_E)
        group_E = torch.arange(len(groups_P)).repeat_interleave(size_P)
        score_E, scored_E = _scores(rollouts_E, scores_P)
        truncated_E = torch.tensor([r.truncated for r in rollouts_E], dtype=torch.bool)
        lengths_S = torch.tensor([len(row.token_ids) for row in rows_S], dtype=torch.long)
        offsets = _offsets(lengths_S)
        token_T = torch.tensor([i for row in rows_S for i in row.token_ids], dtype=torch.long)
        logp_mu_T = torch.tensor([x for row in rows_S for x in row.logps], dtype=torch.float64)
        sampled_T = _sampled(rows_S, len(token_T))
        turn_T, reward_T = _turns(rollouts_E, scores_P, offsets, sampled_T)
        scored_S = scored_E[episode_S]
        return cls(
            prompt_ids_S=_prompts(groups_P),
            group_S=group_E[episode_S],
            episode_S=episode_S,
            truncated_S=truncated_E[episode_S],
            scored_S=scored_S,
            score_S=score_E[episode_S],
            update_S=torch.zeros_like(episode_S),
            counted_S=torch.zeros_like(episode_S),
            offsets=offsets,
            token_T=token_T,
            sampled_T=sampled_T,
            loss_mask_T=scored_S.repeat_interleave(lengths_S)
            & sampled_T
            & (logp_mu_T != -math.inf),
            logp_mu_T=logp_mu_T,
            turn_T=turn_T,
            reward_T=reward_T,
            advantage_T=torch.zeros_like(logp_mu_T),
            experts_S=_experts(rows_S),
        )

    @classmethod
    def join(cls, parts: Sequence[Experience]) -> Experience:
        """The rows of all parts in order.

        Groups and episodes are numbered anew; none is in two parts.
        """
        columns: dict[str, Any] = {}
        parts = [part for part in parts if len(part)] or parts[:1]
        for name in (field.name for field in fields(cls)):
            values = [getattr(part, name) for part in parts]
            if name in RAGGED and values[0] is not None:
                columns[name] = tuple(of_row for column in values for of_row in column)
            elif name == "offsets":
                columns[name] = _offsets(torch.cat([part.lengths_S for part in parts]))
            elif name in ("group_S", "episode_S"):
                pairs = [torch.stack([torch.full_like(g, i), g]) for i, g in enumerate(values)]
                columns[name] = torch.cat(pairs, dim=1).unique(dim=1, return_inverse=True)[1]
            else:
                columns[name] = None if values[0] is None else torch.cat(values)
        return cls(**columns)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.prompt_ids_S)

    @property
    def first_E(self) -> Tensor:
        """The first row of each episode, int64: `score_S[first_E]` has one score per episode."""
        return torch.where(torch.diff(self.place_in_episodes, prepend=torch.tensor([-1])))[0]

    @property
    def place_in_episodes(self) -> Tensor:
        """The place of each row's episode among those that are here, from 0: int64, [S]."""
        place_S: Tensor = self.episode_S.unique_consecutive(return_inverse=True)[1]
        return place_S

    @property
    def sampled_E(self) -> Tensor:
        """The tokens that the policy sampled in each episode, over all its rows, int64."""
        return self.sum_by_episode(self.count(self.sampled_T))

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
        return self.count(self.loss_mask_T)

    def sampled_part(self, column_T: Tensor) -> Tensor:
        """What a column has for the tokens that the policy sampled, end to end."""
        return column_T if bool(self.sampled_T.all()) else column_T[self.sampled_T]

    def count(self, mask_T: Tensor) -> Tensor:
        """The tokens of each row where a mask is true, int64, [S]."""
        return _offsets(mask_T.long())[self.offsets].diff()

    def sum_by_episode(self, value_S: Tensor) -> Tensor:
        """The sum of a row's value over the rows of each episode, [E]."""
        return value_S.new_zeros(len(self.first_E)).index_add(0, self.place_in_episodes, value_S)

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
        """The same rows with a loss on every sampled token, for a forward pass over all of them."""
        return replace(self, loss_mask_T=self.sampled_T)

    def without_experts(self) -> Experience:
        """The same rows, for a forward pass in which every router chooses by itself."""
        return replace(self, experts_S=None)


def _offsets(lengths_S: Tensor) -> Tensor:
    return torch.nn.functional.pad(lengths_S.cumsum(0), (1, 0))


def _prompts(groups_P: Sequence[Group]) -> tuple[tuple[int, ...], ...]:
    return tuple(
        group.prompt.token_ids if row.prompt_ids is None else row.prompt_ids
        for group in groups_P
        for rollout in group.rollouts_G
        for row in rollout.rows
    )


def _scores(
    rollouts_E: Sequence[Rollout], scores_P: Sequence[Scores] | None
) -> tuple[Tensor, Tensor]:
    """The score of each episode, and whether it has one."""
    if scores_P is None:
        score_E, scored_E = [0.0] * len(rollouts_E), [True] * len(rollouts_E)
    else:
        score_E = [total for scores in scores_P for total in scores.total_G]
        scored_E = [i not in s.skipped for s in scores_P for i in range(len(s.total_G))]
    return torch.tensor(score_E, dtype=torch.float64), torch.tensor(scored_E, dtype=torch.bool)


def _sampled(rows_S: Sequence[Rollout], tokens: int) -> Tensor:
    if all(row.sampled is None for row in rows_S):
        return torch.ones(tokens, dtype=torch.bool)
    masks = [row.sampled or (True,) * len(row.token_ids) for row in rows_S]
    return torch.tensor([own for mask in masks for own in mask], dtype=torch.bool)


def _turns(
    rollouts_E: Sequence[Rollout],
    scores_P: Sequence[Scores] | None,
    offsets: Tensor,
    sampled_T: Tensor,
) -> tuple[Tensor, Tensor]:
    """The turn of each token, and each turn's reward at its last token.

    What the policy sampled without an environment is one turn.
    """
    turn_T = sampled_T.long() - 1
    reward_T = torch.zeros(len(sampled_T), dtype=torch.float64)
    rewards_E: list[tuple[float, ...] | None] = [None] * len(rollouts_E)
    if scores_P is not None:
        rewards_E = [r for s in scores_P for r in s.turn_rewards_G or (None,) * len(s.total_G)]
    start_S, row = offsets.tolist(), 0
    for rollout, rewards in zip(rollouts_E, rewards_E, strict=True):
        if rollout.episode is not None:
            turns, left = rollout.episode.turns, rollout.sampled_tokens
            for place, turn in enumerate(turns):
                start, limit = start_S[row + turn.row : row + turn.row + 2]
                first, end = start + turn.first, start + turn.end
                if not first < end <= limit or not bool(sampled_T[first:end].all()):
                    raise ValueError(f"turn {place}: not all of {turn} was sampled")
                turn_T[first:end] = place
                left -= end - first
            if left:
                raise ValueError(f"{left} sampled tokens are in none of {len(turns)} turns")
            for turn, reward in zip(turns, rewards or (0.0,) * len(turns), strict=True):
                reward_T[start_S[row + turn.row] + turn.end - 1] = reward
        row += len(rollout.rows)
    return turn_T, reward_T


def _experts(rows_S: Sequence[Rollout]) -> tuple[Tensor, ...] | None:
    found = [torch.from_numpy(row.experts) for row in rows_S if row.experts is not None]
    return tuple(found) if found and len(found) == len(rows_S) else None
