"""Turns: what each was rewarded with, what it returned, and which tokens are its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drpo_cli.experience import Experience
from drpo_cli.types import Group, Rollout, TurnView


@dataclass(frozen=True)
class Turns:
    """The turns of an experience, end to end; a response without an environment is one turn.

    episode_U  int64, the place of the turn's episode: 0 … E − 1, neighbours together
    index_U    int64, the place of the turn in its episode, from 0
    tokens_U   int64, its sampled tokens, at least 1
    reward_U   float64, its part of the episode's score. The last turn of an episode also has what
               no turn was rewarded with, so the parts of an episode add up to its score
    sampled_T  bool, the response tokens that were sampled
    """

    episode_U: Tensor
    index_U: Tensor
    tokens_U: Tensor
    reward_U: Tensor
    sampled_T: Tensor

    @classmethod
    def of(cls, exp: Experience) -> Turns:
        """The turns of rows whose episodes are whole, in order."""
        turn_N, end_E = exp.sampled_part(exp.turn_T), exp.sampled_E.cumsum(0)
        first_N = torch.ones_like(turn_N, dtype=torch.bool)
        first_N[1:] = turn_N.diff() != 0
        begin_E = (end_E - exp.sampled_E)[exp.sampled_E > 0]
        first_N[begin_E] = True  # also where the episode before ended in a turn of this index
        first_U = torch.where(first_N)[0]
        tokens_U = torch.diff(first_U, append=torch.tensor([len(turn_N)]))
        episode_U = torch.searchsorted(end_E, first_U, right=True)
        given_U = exp.sampled_part(exp.reward_T)[first_U + tokens_U - 1]
        left_E = exp.score_S[exp.first_E].index_add(0, episode_U, given_U, alpha=-1)
        last_U = torch.ones_like(episode_U, dtype=torch.bool)
        last_U[:-1] = episode_U.diff() != 0
        return cls(
            episode_U=episode_U,
            index_U=turn_N[first_U],
            tokens_U=tokens_U,
            reward_U=given_U + torch.where(last_U, left_E[episode_U], 0.0),
            sampled_T=exp.sampled_T,
        )

    def returns(self, discount: float) -> Tensor:
        """G_t = r_t + γ G_{t+1} of every turn, where γ is the discount: [U], float64."""
        return_U, following, episode = [0.0] * len(self.episode_U), 0.0, -1
        backwards = zip(self.episode_U.tolist(), self.reward_U.tolist(), strict=True)
        for place, (of, reward) in reversed(list(enumerate(backwards))):
            following = reward + (discount * following if of == episode else 0.0)
            return_U[place], episode = following, of
        return torch.tensor(return_U, dtype=torch.float64)

    def spread(self, value_U: Tensor) -> Tensor:
        """One value per turn as a column over response tokens; 0 at those that nobody sampled."""
        value_N = value_U.repeat_interleave(self.tokens_U)
        if len(value_N) == len(self.sampled_T):
            return value_N
        return value_U.new_zeros(len(self.sampled_T)).masked_scatter(self.sampled_T, value_N)

    def views(self, episodes: int, groups_P: Sequence[Group] = ()) -> list[list[TurnView]]:
        """The turns of each episode as an advantage sees them.

        The text that they followed is taken from the groups, if these are given.
        """
        found_E: list[list[TurnView]] = [[] for _ in range(episodes)]
        columns = zip(
            self.episode_U.tolist(), self.reward_U.tolist(), self.tokens_U.tolist(), strict=True
        )
        for episode, reward, tokens in columns:
            found_E[episode].append(TurnView(reward, tokens))
        rollouts = [rollout for group in groups_P for rollout in group.rollouts_G]
        if not rollouts:
            return found_E
        return [
            [view._replace(observation=text) for view, text in zip(views, texts, strict=True)]
            for views, texts in zip(found_E, map(observations, rollouts), strict=True)
        ]


def observations(rollout: Rollout) -> list[str]:
    """The text that the policy was shown before each of its turns, since the one before.

    That is the content of the messages, one per line. Empty for a response without an environment.
    """
    episode = rollout.episode
    if episode is None:
        return [""] if rollout.token_ids else []
    acts = [i for i, message in enumerate(episode.messages) if message["role"] == "assistant"]
    own = acts[len(acts) - len(episode.turns) :]  # before these may be examples
    begins = [0, *(act + 1 for act in own)]
    return [
        "\n".join(str(message.get("content") or "") for message in episode.messages[begin:act])
        for begin, act in zip(begins, own, strict=False)
    ]
