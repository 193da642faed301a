"""What training makes of responses that ran, or nearly ran, out of tokens (`train.overlong`).

Evaluation, dynamic sampling and the curriculum see the scores as the rewards gave them.
"""

from __future__ import annotations

from dataclasses import replace

from drpo_cli.experience import Experience
from drpo_cli.settings import TrainSettings

BUFFER_SHARE = 5  # of the longest response, where the spec sets none (DAPO: 4,096 of 20,480)


def with_overlong(exp: Experience, settings: TrainSettings, longest: int) -> Experience:
    """Shapes the scores of overlong responses, or takes their losses out.

    keep  nothing changes
    zero  the score of a truncated response is 0
    soft  with n = |y|, L = `longest` and b = `train.overlong_buffer`, all in tokens, the score of
          a response with n > L − b changes by (L − b − n) / b: DAPO, arXiv 2503.14476, Eq. 13
    mask  a truncated response has no loss; its score still counts in its group's baseline
    """
    if settings.overlong == "zero":
        return replace(exp, score_S=exp.score_S.masked_fill(exp.truncated_S, 0.0))
    if settings.overlong == "soft":
        buffer = settings.overlong_buffer or max(1, longest // BUFFER_SHARE)
        over_S = (exp.lengths_S - (longest - buffer)).clamp(min=0)
        return replace(exp, score_S=exp.score_S - over_S.double() / buffer)
    if settings.overlong == "mask":
        return replace(exp, loss_mask_T=exp.loss_mask_T & ~exp.repeat(exp.truncated_S))
    return exp
