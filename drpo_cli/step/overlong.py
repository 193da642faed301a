"""What training makes of responses that ran, or nearly ran, out of tokens."""

from __future__ import annotations

from dataclasses import replace

from drpo_cli.types import Group, Scores

BUFFER_SHARE = 5  # of the longest response, where the spec does not say (DAPO: 4,096 of 20,480)


def shaped(group: Group, scores: Scores, handling: str, longest: int, buffer: int | None) -> Scores:
    """The scores that training sees; evaluation sees the ones it was given.

    zero  the total of a truncated response is 0
    soft  with n = |y|, L = `longest` and b = `buffer`, all in tokens, a response of n > L − b gets
          (L − b − n) / b on top of its total: DAPO, arXiv 2503.14476, Eq. 13
    """
    if handling == "zero":
        kept = [not rollout.truncated for rollout in group.rollouts_G]
        total_G = tuple(t if keep else 0.0 for t, keep in zip(scores.total_G, kept, strict=True))
    elif handling == "soft":
        buffer = buffer or max(1, longest // BUFFER_SHARE)
        over_G = [len(r.token_ids) - (longest - buffer) for r in group.rollouts_G]
        total_G = tuple(
            total - max(0, over) / buffer
            for total, over in zip(scores.total_G, over_G, strict=True)
        )
    else:
        return scores
    return replace(scores, total_G=total_G)
