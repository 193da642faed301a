"""What training makes of responses that ran, or nearly ran, out of tokens (`train.overlong`).

Evaluation, dynamic sampling and the curriculum see the scores as the rewards gave them.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from drpo_cli.experience import Experience
from drpo_cli.settings import TrainSettings
from drpo_cli.step.credit import Turns

BUFFER_SHARE = 5  # of the longest response, where the spec sets none (DAPO: 4,096 of 20,480)


def with_overlong(exp: Experience, settings: TrainSettings, longest: int) -> Experience:
    """Shapes the scores of overlong episodes, or takes their losses out.

    keep  nothing changes
    zero  the score of a truncated episode is 0, and so is the reward of each of its turns
    soft  with n = |y|, L = `longest` and b = `train.overlong_buffer`, all in tokens, the score of
          a response with n > L − b changes by (L − b − n) / b: DAPO, arXiv 2503.14476, Eq. 13
    mask  a truncated episode has no loss; its score still counts in its group's baseline

    L limits a turn, so n is the longest turn of an episode: its penalty is at most 1, however many
    turns it has. It is taken off the total once, and counts for the last turn.
    """
    if settings.overlong == "zero":
        truncated_T = exp.repeat(exp.truncated_S)
        return replace(
            exp,
            score_S=exp.score_S.masked_fill(exp.truncated_S, 0.0),
            reward_T=exp.reward_T.masked_fill(truncated_T, 0.0),
        )
    if settings.overlong == "soft":
        buffer = settings.overlong_buffer or max(1, longest // BUFFER_SHARE)
        turns = Turns.of(exp)
        longest_E = torch.zeros(len(exp.first_E), dtype=torch.long)
        longest_E = longest_E.scatter_reduce(0, turns.episode_U, turns.tokens_U, "amax")
        over_E = (longest_E - (longest - buffer)).clamp(min=0)
        over_S = over_E[exp.place_in_episodes]
        return replace(exp, score_S=exp.score_S - over_S.double() / buffer)
    if settings.overlong == "mask":
        return replace(exp, loss_mask_T=exp.loss_mask_T & ~exp.repeat(exp.truncated_S))
    return exp
